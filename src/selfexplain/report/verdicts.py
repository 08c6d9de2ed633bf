"""What a report says first: the outcome in words, and only what the statistics carry."""

from calendar import month_name
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selfexplain.report.tables import searches_caption, survives, unfinished, with_interval

Row = Mapping[str, Any]

NBSP = "\N{NO-BREAK SPACE}"
MOST_TOLD = 3
"""So many proven differences stand in the first line; the table has them all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first line of a report, and the sentence below it that says what it rests on."""

    line: str
    detail: str = ""


def readable(name: str) -> str:
    """A method as words, its options as they were given.

    Example:
        >>> readable("label_smoothing"), readable("ps_kd"), readable("kd:teacher_model=a_b")
        ('label smoothing', 'PS-KD', 'kd:teacher_model=a_b')
    """
    method, colon, options = name.partition(":")
    parts = method.split("_")
    short = len(parts) > 1 and max(map(len, parts)) < 3
    return ("-".join(parts).upper() if short else " ".join(parts)) + colon + options


def comparison_verdict(results: Row) -> Verdict:
    """Which objectives differ from the first by more than chance, and by how much.

    Args:
        results: what `results.json` of a comparison holds.

    Example:
        >>> row = {"objective": "introspective", "n": 3, "difference_mean": 0.6,
        ...        "difference_ci95": (0.4, 0.8), "difference_p": 0.01, "difference_p_holm": 0.01}
        >>> first = {"objective": "label_smoothing", "n": 3}
        >>> comparison_verdict({"summary": [first, row]}).line
        'introspective beats label smoothing by 0.6 ± 0.2 points'
        >>> comparison_verdict({"summary": [first, row | {"difference_p_holm": 0.2}]}).line
        'No difference is proven'
    """
    first, *others = results["summary"]
    lacking = unfinished(dict(results))
    before = "Unfinished: " if lacking else ""
    after = f" {lacking[0].removeprefix('UNFINISHED: ').capitalize()}." if lacking else ""
    base, n = readable(first["objective"]), first["n"]
    if not others:
        line = f"{base}: {first['accuracy_mean']:.2f} % correct, compared with nothing"
        return Verdict(_begun(before, line), f"{_seeds(n)}.{after}")
    proven = sorted(filter(survives, map(dict, others)), key=lambda row: -row["difference_mean"])
    detail = f"{_tested(others, n)}{after}"
    if not proven:
        greatest = _greatest(others, base)
        return Verdict(_begun(before, "No difference is proven"), f"{greatest}{detail}")
    told = _listed([_difference(row, base, proven[:i]) for i, row in enumerate(proven)])
    names = {row["objective"] for row in proven}
    rest = [readable(row["objective"]) for row in others if row["objective"] not in names]
    unproven = f"No difference is proven for {_few(rest)}. " if rest else ""
    return Verdict(_begun(before, told, name=True), f"{unproven}{detail}")


def _begun(before: str, line: str, *, name: bool = False) -> str:
    """The line behind what must be said before it; a name keeps its first letter."""
    return before + (line[0].lower() + line[1:] if before and not name else line)


def _difference(row: Row, base: str, before: Sequence[Row]) -> str:
    """One difference in words, with what those before it have said left out."""
    mean, (low, high) = row["difference_mean"], row["difference_ci95"]
    half = (high - low) / 2
    digits = 1 if half >= 0.1 and abs(mean) >= 0.1 else 2
    word = "beats" if mean > 0 else "loses to"
    amount = f"{abs(mean):.{digits}f} ± {half:.{digits}f}"
    who = readable(row["objective"])
    if not before:
        return f"{who} {word} {base} by {amount} points"
    again = (before[-1]["difference_mean"] > 0) == (mean > 0)
    return f"{who} by {amount}" if again else f"{who} {word} it by {amount}"


def _listed(told: Sequence[str]) -> str:
    shown, more = told[:MOST_TOLD], len(told) - MOST_TOLD
    return ", ".join(shown) + (f", and {more} more differ" if more > 0 else "")


def _few(names: Sequence[str]) -> str:
    if len(names) > MOST_TOLD:
        return f"{', '.join(names[:MOST_TOLD])} and {len(names) - MOST_TOLD} more"
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _greatest(others: Sequence[Row], base: str) -> str:
    """The difference that came nearest to being one, which is to keep nobody guessing."""
    known = [row for row in others if row.get("difference_mean") is not None]
    if not known:
        return ""
    row = max(known, key=lambda row: abs(row["difference_mean"]))
    amount = with_interval(row["difference_mean"], row["difference_ci95"], 2)
    p = row.get("difference_p_holm")
    chance = "" if p is None else f", p = {p:.2g}"
    return (
        f"The greatest is that of {readable(row['objective'])} to {base}: {amount} points{chance}. "
    )


def _tested(others: Sequence[Row], n: int) -> str:
    """How the differences were tested, or why they were not."""
    if n < 2:
        return "One seed has no spread, so nothing is tested; pass at least two --seeds."
    if all(row.get("difference_p") is None for row in others):
        return f"{_seeds(n).capitalize()}; the differences have no spread that a test could judge."
    count = f"{len(others)} comparison{'s' if len(others) > 1 else ''}"
    return (
        f"Paired t-tests over {_seeds(n)} at 5{NBSP}%, after Holm's correction for {count}; ± is "
        f"half of a 95{NBSP}% interval."
    )


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def waiting_verdict(done: int, wanted: int, what: str = "runs") -> Verdict:
    """The verdict on what has no result yet.

    Example:
        >>> waiting_verdict(3, 9).line
        'Not finished: 3 of 9 runs are done'
    """
    return Verdict(
        f"Not finished: {done} of {wanted} {what} are done",
        "Nothing can be said yet. Repeat the command to continue.",
    )


def study_verdict(study: Row) -> Verdict:
    """What a whole teacher brings, and which of its parts bring something too.

    Args:
        study: what `study.json` holds.

    Example:
        >>> row = {"part": "full", "gain_mean": 1.2, "gain_ci95": (1.0, 1.4), "n": 3}
        >>> study_verdict({"rows": [{"part": "plain", "n": 3}, row]}).line
        'The whole teacher adds 1.2 ± 0.2 points'
    """
    rows = {row["part"]: row for row in study["rows"]}
    n = study["rows"][0]["n"]
    full = rows.get("full", {})
    sure = [
        name
        for name, row in rows.items()
        if name not in {"plain", "full"} and (row["gain_ci95"] or (0, 0))[0] > 0
    ]
    parts = (
        f"Of its parts alone, {_few(sure)} bring a gain whose interval is above 0. " if sure else ""
    )
    detail = (
        f"{parts}Gains over plain training with the same {_seeds(n)}, ± half of a 95 % interval."
    )
    interval = full.get("gain_ci95")
    if interval is None or interval[0] <= 0 <= interval[1]:
        return Verdict("No gain from the teacher is proven", detail)
    amount, half = full["gain_mean"], (interval[1] - interval[0]) / 2
    word = "adds" if amount > 0 else "costs"
    return Verdict(f"The whole teacher {word} {abs(amount):.1f} ± {half:.1f} points", detail)


def search_verdict(result: Row | None, epochs: int, planned: int) -> Verdict:
    """What one search found.

    Args:
        result: of its `result.json`; None if it is not finished.
        epochs: that are over.
        planned: of the search.

    Example:
        >>> found = {"skips": 1, "edges": 6, "collapsed": False}
        >>> search_verdict(found, 9, 9).line
        'A cell with 1 skip connection on 6 edges was found'
    """
    if result is None:
        return waiting_verdict(epochs, planned, "epochs")
    skips = result["skips"]
    line = (
        f"A cell with {skips} skip connection{'' if skips == 1 else 's'} on {result['edges']} edges"
    )
    if result["collapsed"]:
        return Verdict(
            f"The search collapsed: {line[0].lower()}{line[1:]}",
            "More than half of the edges are skip connections.",
        )
    return Verdict(f"{line} was found", "What it is worth, training it from scratch says.")


def searches_verdict(results: Row | None) -> Verdict:
    """What searches with several seeds found; None if not all are finished.

    Example:
        >>> searches_verdict(None).line
        'Not all of these searches are finished'
    """
    if results is None:
        return Verdict("Not all of these searches are finished", "Repeat the command to continue.")
    summary = results["summary"]
    cells, n, collapsed = (summary[name] for name in ("different_cells", "n", "collapsed"))
    found = f"{cells} different cell{'' if cells == 1 else 's'} from {_seeds(n)}"
    fate = f"{collapsed} of the searches collapsed" if collapsed else "none collapsed"
    return Verdict(f"{found}; {fate}", f"{searches_caption(summary)}.")


# Where a result comes from.


def origin(environment: Row, data: str, images: Row) -> dict[str, str]:
    """Command, date, commit and images in words; what was not recorded is left out.

    Args:
        environment: saved with a run; those of older versions have no command and no date.
        data: the spec of the images.
        images: what `run.json` says of them.

    Example:
        >>> origin({"command": None, "date": "2026-11-27T18:05:09+00:00"}, "digits", {})
        {'Date': '27 November 2026, 18:05 UTC', 'Images': 'digits'}
    """
    found = {
        "Command": str(environment.get("command") or ""),
        "Date": _date_said(str(environment.get("date") or "")),
        "Commit": _commit_said(str(environment.get("commit") or "")),
        "Images": ", ".join(filter(None, (data, *_images_said(images)))),
    }
    return {label: text for label, text in found.items() if text}


def _date_said(iso: str) -> str:
    """A date as people write it; as it was saved if it is none."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.day} {month_name[when.month]} {when:%Y, %H:%M} {when.tzname() or ''}".strip()


def _commit_said(commit: str) -> str:
    """The first digits, and whether there were changes besides."""
    digits, _, changed = commit.partition("-")
    return digits[:12] + (", with changes" if changed else "")


COUNTED = {"train": "to train", "scored": "to score"}
"""Count of images in a `run.json` -> what they are for."""


def _images_said(images: Row) -> list[str]:
    """How many images there are, how large, and of how many classes."""
    counts = [f"{images[key]} {word}" for key, word in COUNTED.items() if key in images]
    shape, names = images.get("shape"), images.get("class_names")
    if isinstance(shape, list) and len(shape) == 3:
        channels = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]} channels")
        counts.append(f"{shape[1]} x {shape[2]} pixels, {channels}")
    classes = len(names) if isinstance(names, list) else 0
    return counts + ([f"{classes} class{'es' * (classes > 1)}"] if classes else [])
