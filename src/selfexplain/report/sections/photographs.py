"""What a run on photographs gets wrong, in plain words, with the pictures.

Shape suffixes: B images, C channels, H and W space, K classes, N scored images, P pairs, L bytes, R
the true and the predicted class, A one number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.explanations.metrics.evidence import (
    RING,
    evidence_overlap,
    is_faint,
    ring_area,
)
from selfexplain.report.html import (
    Section,
    escape,
    image,
    image_pixels,
    jpeg_uri,
    map_pixels,
    paragraph,
    strength,
    table,
)
from selfexplain.report.sections.record import Record

FIRST = 6
"""So many are shown at once; the others when they are asked for."""
FIRST_DOUBTS = 10
"""The same of doubted labels, which stand side by side."""
SIDE = 192
"""Width of a picture in CSS pixels, and the most of its own pixels."""
SAME, PARTLY = 0.7, 0.4
"""Overlaps of evidence from which two maps read the same place, or partly the same."""
TRUSTED = 0.5
"""Share of the labels that heads must agree with before their doubts are told."""

PICTURES = {"images": "uint8 BCHW", "names": "uint8 BL"}
MISTAKES = PICTURES | {"classes": "int BR", "probabilities": "float BR", "maps": "float BRST"}
CONFUSED = MISTAKES | {
    "pairs": "int BR",
    "counts": "int BR",
    "overlap": "float B",
    "explained": "int B",
    "looked": "int B",
}
MISLABELS = PICTURES | {
    "given": "int B",
    "suggested": "int B",
    "probabilities": "float BR",
    "judged": "int A",
    "doubted": "int A",
}
SHORTCUTS = {
    "share": "float K",
    "error": "float K",
    "count": "int K",
    "images": "uint8 BCHW",
    "classes": "int B",
    "maps": "float BST",
    "shares": "float B",
}


def plain_summary(record: Record) -> str:
    """In one sentence, what a finished run gets right; empty without predictions.

    Example:
        >>> import torch
        >>> from selfexplain.report.sections import Predictions
        >>> said = Predictions(logits_NK=torch.eye(2), labels_N=torch.tensor([0, 0]))
        >>> plain_summary(Record(objective="a", seed=0, class_names=("x", "y"), predictions=said))
        'Of 2 images that it was not trained on, 1 is classified correctly (50.0 %).'
    """
    if record.predictions is None:
        return ""
    right_N = record.predictions.logits_NK.argmax(dim=1) == record.predictions.labels_N
    count, right = len(right_N), int(right_N.sum())
    what = "photograph" if record.photographs else "image"
    return (
        f"Of {count} {what}{'' if count == 1 else 's'} that it was not trained on, "
        f"{'all' if right == count > 1 else right} {'is' if right == 1 else 'are'} classified "
        f"correctly ({100 * right / count:.1f} %)."
    )


def photographs_section(records: Sequence[Record]) -> Section | None:
    """Mistakes, confused classes, doubted labels and borders of the first run that kept any.

    Returns:
        None if no run has, as none on small or grey images do.

    Raises:
        InputError: a file of a run is damaged.

    Example:
        >>> photographs_section([Record(objective="a", seed=0, class_names=())]) is None
        True
    """
    for record in records:
        parts = [part(record) for part in (mistakes, confused, mislabels, shortcuts)]
        told = "".join(part for part in parts if part)
        if told:
            whose = paragraph(f"{record.name}.") if len(records) > 1 else ""
            body = f'{whose}{strength(READING)}<div class="findings">{told}</div>'
            return Section("What it gets wrong, and where it looks", body)
    return None


READING = (
    "Over a photograph: red is evidence for a class, blue against it. The maps of one photograph "
    "share a scale: the fullest colour is its strongest evidence."
)


# The worst mistakes.


def mistakes(record: Record) -> str | None:
    """Wrong and sure of it: the photograph, the maps of both classes, and what they share.

    Example:
        >>> mistakes(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "mistakes", MISTAKES, ("classes",))
    if found is None:
        return None
    pictures = _pictures(found)
    items = []
    for i, picture in enumerate(pictures):
        y, said = found["classes"][i].tolist()
        own, sure = found["probabilities"][i].tolist()
        true, predicted = record.class_names[y], record.class_names[said]
        words = [
            f"The model is {_percent(sure)} sure of {predicted}, and gives {true} {_percent(own)}.",
            shared(found["maps"][i], (true, predicted)),
        ]
        head = f"{escape(true)}, taken for {escape(predicted)}"
        items.append(
            _finding(head, words, picture.name, _trio(picture, found["maps"][i], true, predicted))
        )
    which = (
        f"The {len(items)} wrong answers of which the model is surest; the surest come first."
        if len(items) > 1
        else "The only wrong answer."
    )
    return (
        "<h3>The worst mistakes</h3>"
        + paragraph(
            f"{which} The first map shows what speaks for the true class, the second what speaks "
            f"for the answer. Now and then the answer is right and the label wrong. {OVERLAP}"
        )
        + _folded(items, "mistakes")
    )


OVERLAP = (
    "Overlap is the share of the evidence for both classes that lies at the same places, from 0 to "
    "1: 1 means that the model reads both classes off the same places in the same proportions."
)


def shared(maps_RHW: Tensor, names: Sequence[str]) -> str:
    """What the maps of two classes share, in words.

    Example:
        >>> import torch
        >>> one = torch.eye(2)
        >>> shared(torch.stack([one, one]), ["cat", "dog"])
        'Both read the same place: overlap 1.00.'
        >>> shared(torch.stack([one, -one]), ["cat", "dog"])
        'Hardly anything in it speaks for dog.'
    """
    faint_R = is_faint(maps_RHW[None])[0].tolist()
    without = [name for name, faint in zip(names, faint_R, strict=True) if faint]
    if without:
        return f"Hardly anything in it speaks for {' or '.join(without)}."
    overlap = float(evidence_overlap(maps_RHW[:1], maps_RHW[1:])[0])
    return f"{_in_words(overlap)}: overlap {overlap:.2f}."


def shared_by_pair(overlap: float, explained: int, looked: int) -> str:
    """What the mistakes of a pair of classes share, in words.

    Example:
        >>> shared_by_pair(0.75, 3, 4)
        'Both read the same place: overlap 0.75, the mean of 3 mistakes; in 1 more, hardly ...
    """
    if not explained:
        return f"In all {looked} mistakes looked at, hardly anything speaks for one of the two."
    mean = f"the mean of {explained} mistakes" if explained > 1 else "in one mistake"
    more = looked - explained
    rest = f"; in {more} more, hardly anything speaks for one of the two" if more else ""
    return f"{_in_words(overlap)}: overlap {overlap:.2f}, {mean}{rest}."


def _in_words(overlap: float) -> str:
    if overlap >= SAME:
        return "Both read the same place"
    return "Both read partly the same place" if overlap >= PARTLY else "They read different places"


# Classes that are confused.


def confused(record: Record) -> str | None:
    """The pairs of classes most often taken for one another, each with an example.

    Example:
        >>> confused(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "confused", CONFUSED, ("classes", "pairs"))
    if found is None:
        return None
    names, items = record.class_names, []
    for i, picture in enumerate(_pictures(found)):
        (a, b), (forth, back) = found["pairs"][i].tolist(), found["counts"][i].tolist()
        y, said = found["classes"][i].tolist()
        overlap, explained = float(found["overlap"][i]), int(found["explained"][i])
        words = [
            f"Of {_all_of(record, a)}, {forth or 'none'} {'is' if forth == 1 else 'are'} taken for "
            f"{names[b]}; of {_all_of(record, b)}, {back or 'none'} for {names[a]}.",
            f"{shared_by_pair(overlap, explained, int(found['looked'][i]))} Here, {names[y]} is "
            f"taken for {names[said]}.",
        ]
        drawn = _trio(picture, found["maps"][i], names[y], names[said])
        items.append(
            _finding(f"{escape(names[a])} and {escape(names[b])}", words, picture.name, drawn)
        )
    return (
        "<h3>Classes that it confuses</h3>"
        + paragraph(
            "Pairs of classes that are taken for one another, by the share of their photographs; "
            "with each its surest mistake."
        )
        + _folded(items, "pairs")
    )


def _all_of(record: Record, k: int) -> str:
    """'40 photographs of cat', or without the number where it is not known."""
    if record.predictions is None:
        return f"the photographs of {record.class_names[k]}"
    count = int((record.predictions.labels_N == k).sum())
    return f"{count} photograph{'' if count == 1 else 's'} of {record.class_names[k]}"


# Labels that may be wrong.


def mislabels(record: Record) -> str | None:
    """The training photographs whose labels are doubted most.

    Example:
        >>> mislabels(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "mislabels", MISLABELS, ("given", "suggested"))
    if found is None:
        return None
    judged, doubted = int(found["judged"][0]), int(found["doubted"][0])
    agreed = 1 - doubted / max(judged, 1)
    title = "<h3>Labels that may be wrong</h3>"
    if agreed < TRUSTED:
        return title + paragraph(
            f"The features tell these classes apart too badly to doubt labels by them: they agree "
            f"with {_percent(agreed)} of the labels."
        )
    names, tiles = record.class_names, []
    for i, picture in enumerate(_pictures(found)):
        own, other = found["probabilities"][i].tolist()
        given, suggested = names[found["given"][i]], names[found["suggested"][i]]
        tiles.append(
            f'<figure class="doubt" style="{picture.style}">{_photograph(picture, given)}'
            f"<figcaption><b>{escape(given)}</b> ({_percent(own)})<br>rather "
            f"<b>{escape(suggested)}</b> ({_percent(other)})"
            f"{_file(picture.name)}</figcaption></figure>"
        )
    return (
        title
        + paragraph(
            f"For {doubted} of {judged} training photographs another class is likelier than the "
            f"label; {_shown(len(tiles), doubted)}. Each was judged by classifiers that never "
            "saw it in training, on features that never saw these labels. Not everything here "
            "is mislabelled: look before you change anything. First comes the label with the "
            "probability it was given, then the likelier class with its own."
        )
        + _folded(tiles, "photographs", kind="doubts", first=FIRST_DOUBTS)
    )


def _shown(shown: int, doubted: int) -> str:
    return "all are shown" if shown == doubted else f"the {shown} most doubtful are shown"


# Evidence at the border.


def shortcuts(record: Record) -> str | None:
    """How much of the evidence for each class lies at the border of the photographs.

    Example:
        >>> shortcuts(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "shortcuts", SHORTCUTS, ("classes",))
    if found is None:
        return None
    share_K, error_K, count_K = (found[name] for name in ("share", "error", "count"))
    order = [k for k in share_K.argsort(descending=True).tolist() if count_K[k]]
    area = ring_area()
    names = record.class_names
    high = [k for k in order if share_K[k] - 2 * error_K[k] > area]
    rows = [
        [
            names[k],
            int(count_K[k]),
            f"{100 * share_K[k]:.0f} ± {100 * error_K[k]:.0f}",
            f"{share_K[k] / area:.2f}",
        ]
        for k in order[: 2 * FIRST]
    ]
    numbers = table(
        ("answer", "images", "border, %", "times area"),
        rows,
        caption="evidence for the answer in the ring at the border: mean over the photographs that "
        "get this answer and hold more evidence for it than against it, and its standard error; "
        "last, how many times the ring's share of the area",
    )
    return (
        "<h3>Evidence at the border</h3>"
        + paragraph(_verdict([names[k] for k in high], area))
        + f'<div class="borders">{_examples(record, found, high)}</div>'
        + f"<details><summary>Numbers</summary>{numbers}</details>"
    )


def _examples(record: Record, found: dict[str, Tensor], classes: Sequence[int]) -> str:
    """The photographs of some classes, each with its map."""
    drawn = []
    for i, picture in enumerate(_pictures(found)):
        k, map_HW = int(found["classes"][i]), found["maps"][i]
        if k in classes:
            name = record.class_names[k]
            tiles = _photograph(picture, "") + _map(
                picture, map_HW, float(map_HW.abs().max()), name
            )
            drawn.append(
                f'<figure class="border" style="{picture.style}"><div class="duo">{tiles}</div>'
                f"<figcaption>called <b>{escape(name)}</b>; "
                f"{_percent(float(found['shares'][i]))} of the evidence for it lies at the border"
                "</figcaption></figure>"
            )
    return "".join(drawn)


def _verdict(high: Sequence[str], area: float) -> str:
    ring = (
        f"A ring along the border, {100 * RING:.1f} % of each side wide, covers {_percent(area)} "
        "of a photograph; evidence that is spread evenly would lie there as often. "
    )
    if not high:
        return ring + "For no answer does clearly more of the evidence lie there."
    more = f" and {len(high) - 3} more" if len(high) > 3 else ""
    return (
        f"{ring}Clearly more does for {', '.join(high[:3])}{more}. This may be a shortcut, where "
        "the model reads the surroundings, or the object may fill the picture: the examples "
        "below, those with most at the border, show which."
    )


# Pictures, and what stands beside them.


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    style: str
    """Holds the photograph once, for all pictures of it."""
    ratio: str
    name: str


def _pictures(found: dict[str, Tensor]) -> list[_Picture]:
    height, width = found["images"].shape[2:]
    names = found["names"].tolist() if "names" in found else [[]] * len(found["images"])
    return [
        _Picture(
            style=f"--photo:url({jpeg_uri(image_pixels(image_CHW, side=SIDE))})",
            ratio=f"aspect-ratio:{width}/{height}",
            name=_printable(bytes(name).rstrip(b"\0").decode(errors="replace")),
        )
        for image_CHW, name in zip(found["images"], names, strict=True)
    ]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _photograph(picture: _Picture, name: str) -> str:
    told = f"photograph of {name}" if name else "photograph"
    return (
        f'<div class="photo" role="img" aria-label="{escape(told)}" style="{picture.ratio}"></div>'
    )


def _map(picture: _Picture, map_HW: Tensor, scale: float, name: str) -> str:
    drawn = image(map_pixels(map_HW, scale or 1.0), f"map of class {name}", size=SIDE)
    return f'<div class="photo map" style="{picture.ratio}">{drawn}</div>'


def _trio(picture: _Picture, maps_RHW: Tensor, true: str, predicted: str) -> str:
    """Photograph, map of the true class and of the predicted one, on one scale."""
    scale = float(maps_RHW.abs().max())
    tiles = [
        _tile(_photograph(picture, true), "photograph"),
        _tile(_map(picture, maps_RHW[0], scale, true), f"for {true}"),
        _tile(_map(picture, maps_RHW[1], scale, predicted), f"for {predicted}"),
    ]
    return f'<div class="trio" style="{picture.style}">{"".join(tiles)}</div>'


def _tile(picture: str, name: str) -> str:
    return f'<div class="tile">{picture}<span>{escape(name)}</span></div>'


def _finding(head: str, words: Sequence[str], name: str, pictures: str) -> str:
    told = "".join(map(paragraph, words))
    return (
        f'<article class="finding"><div><h4>{head}</h4>{told}{_file(name)}</div>{pictures}'
        "</article>"
    )


def _file(name: str) -> str:
    return f'<p class="file">{escape(name)}</p>' if name else ""


def _folded(items: Sequence[str], what: str, *, kind: str = "", first: int = FIRST) -> str:
    """The first items, and the others under a line that opens."""
    start = f'<div class="{kind}">' if kind else ""
    end = "</div>" if kind else ""
    shown = f"{start}{''.join(items[:first])}{end}"
    rest = items[first:]
    if not rest:
        return shown
    return (
        f"{shown}<details><summary>{len(rest)} more {what}</summary>"
        f"{start}{''.join(rest)}{end}</details>"
    )


def _percent(share: float) -> str:
    r"""A share in whole percent, but for what would be rounded to 0 or 100.

    Example:
        >>> _percent(0.4375), _percent(0.002), _percent(0.9999)
        ('44\xa0%', 'less than 1\xa0%', 'more than 99\xa0%')
    """
    if 0 < share < 0.005:
        return "less than 1\N{NO-BREAK SPACE}%"
    if 0.995 <= share < 1:
        return "more than 99\N{NO-BREAK SPACE}%"
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _read(
    record: Record, name: str, shapes: dict[str, str], classes: Sequence[str]
) -> dict[str, Tensor] | None:
    """A file of a run; its class numbers are checked."""
    file = f"{name}.safetensors"
    found = record.read(file, shapes)
    if found is None:
        return None
    wrong = [f"{key} come by {t.shape[1]}" for key, t in found.items() if _not_two(shapes[key], t)]
    for key in classes:
        low, high = int(found[key].min()), int(found[key].max())
        if low < 0 or high >= len(record.class_names):
            wrong.append(f"{key} go from {low} to {high}")
    if wrong:
        raise InputError(
            f"{file} is damaged: {wrong[0]}, and the run has {len(record.class_names)} classes, "
            "which come by two; put it back as it was, or delete it to do without"
        )
    return found


def _not_two(shape: str, tensor: Tensor) -> bool:
    return "R" in shape.split()[1] and tensor.shape[1] != 2
