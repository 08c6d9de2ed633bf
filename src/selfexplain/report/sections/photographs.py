"""What a run on photographs gets wrong, in plain words, with the pictures.

Shape suffixes: B images, C channels, H and W space, K classes, N scored images, P pairs, L bytes, R
the true and the predicted class, A one number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.explanations.metrics.evidence import (
    RING,
    evidence_overlap,
    is_faint,
    ring_area,
)
from selfexplain.report.html import (
    BLUE,
    RED,
    STRONG,
    Section,
    image_pixels,
    jpeg_uri,
    map_pixels,
    render,
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
    known = "not trained" if record.held_out else "scored"
    return (
        f"Of {count} {what}{'' if count == 1 else 's'} that it was {known} on, "
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
    parts = {"mistakes": mistakes, "confused": confused} | {
        "mislabels": mislabels,
        "shortcuts": shortcuts,
    }
    for record in records:
        found = {name: part(record) for name, part in parts.items()}
        if any(found.values()):
            ends = {"against": BLUE, "for": RED}
            body = render(
                "photographs.html",
                whose=record.name if len(records) > 1 else "",
                side=SIDE,
                first=FIRST,
                first_doubts=FIRST_DOUBTS,
                **{end: f"rgb({r} {g} {b} / {STRONG})" for end, (r, g, b) in ends.items()},
                **found,
            )
            title = "What it gets wrong, and where it looks"
            return Section(title, body, group=record.name)
    return None


# The worst mistakes.


def mistakes(record: Record) -> list[dict[str, Any]] | None:
    """Wrong and sure of it: the photograph, the maps of both classes, and what they share.

    Example:
        >>> mistakes(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "mistakes", MISTAKES, ("classes",))
    if found is None:
        return None
    told = []
    for i, finding in enumerate(_findings(record, found)):
        own, sure = found["probabilities"][i].tolist()
        names = (finding["true"], finding["predicted"])
        words = {
            "sure": _percent(sure),
            "own": _percent(own),
            "shared": shared(found["maps"][i], names),
        }
        told.append(finding | words)
    return told


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


def confused(record: Record) -> list[dict[str, Any]] | None:
    """The pairs of classes most often taken for one another, each with an example.

    Example:
        >>> confused(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = _read(record, "confused", CONFUSED, ("classes", "pairs"))
    if found is None:
        return None
    told = []
    for i, finding in enumerate(_findings(record, found)):
        (a, b), (forth, back) = found["pairs"][i].tolist(), found["counts"][i].tolist()
        overlap, explained = float(found["overlap"][i]), int(found["explained"][i])
        words = {
            "a": record.class_names[a],
            "b": record.class_names[b],
            "all_of_a": _all_of(record, a),
            "all_of_b": _all_of(record, b),
            "forth": forth,
            "back": back,
            "shared": shared_by_pair(overlap, explained, int(found["looked"][i])),
        }
        told.append(finding | words)
    return told


def _all_of(record: Record, k: int) -> str:
    """'40 photographs of cat', or without the number where it is not known."""
    if record.predictions is None:
        return f"the photographs of {record.class_names[k]}"
    count = int((record.predictions.labels_N == k).sum())
    return f"{count} photograph{'' if count == 1 else 's'} of {record.class_names[k]}"


# Labels that may be wrong.


def mislabels(record: Record) -> dict[str, Any] | None:
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
    names, shown = record.class_names, []
    for i, picture in enumerate(_pictures(found)):
        own, other = map(_percent, found["probabilities"][i].tolist())
        given, suggested = names[found["given"][i]], names[found["suggested"][i]]
        shown.append(
            {"picture": picture, "given": given, "own": own}
            | {"suggested": suggested, "other": other}
        )
    return {
        "judged": judged,
        "doubted": doubted,
        "agreed": _percent(agreed),
        "distrusted": agreed < TRUSTED,
        "shown": shown,
    }


# Evidence at the border.


def shortcuts(record: Record) -> dict[str, Any] | None:
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
        (
            names[k],
            int(count_K[k]),
            f"{100 * share_K[k]:.0f} ± {100 * error_K[k]:.0f}",
            f"{share_K[k] / area:.2f}",
        )
        for k in order[: 2 * FIRST]
    ]
    return {
        "ring": f"{100 * RING:.1f} %",
        "area": _percent(area),
        "high": [names[k] for k in high],
        "examples": _examples(record, found, high),
        "rows": rows,
    }


def _examples(
    record: Record, found: dict[str, Tensor], classes: Sequence[int]
) -> list[dict[str, Any]]:
    """The photographs of some classes, each with its map."""
    return [
        {
            "picture": picture,
            "map": _map(map_HW, float(map_HW.abs().max())),
            "name": record.class_names[k],
            "share": _percent(share),
        }
        for picture, k, map_HW, share in zip(
            _pictures(found),
            found["classes"].tolist(),
            found["maps"],
            found["shares"].tolist(),
            strict=True,
        )
        if k in classes
    ]


# Pictures, and what stands beside them.


def _pictures(found: dict[str, Tensor]) -> list[dict[str, str]]:
    """Each photograph as a URI, its aspect ratio, and the name of its file."""
    height, width = found["images"].shape[2:]
    names = found["names"].tolist() if "names" in found else [[]] * len(found["images"])
    return [
        {
            "uri": jpeg_uri(image_pixels(image_CHW, side=SIDE)),
            "ratio": f"{width}/{height}",
            "name": _printable(bytes(name).rstrip(b"\0").decode(errors="replace")),
        }
        for image_CHW, name in zip(found["images"], names, strict=True)
    ]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _findings(record: Record, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Photographs, their true and predicted classes, and the maps of both, on one scale."""
    return [
        {
            "picture": picture,
            "true": record.class_names[true],
            "predicted": record.class_names[predicted],
            "maps": [_map(map_HW, float(maps_RHW.abs().max())) for map_HW in maps_RHW],
        }
        for picture, (true, predicted), maps_RHW in zip(
            _pictures(found), found["classes"].tolist(), found["maps"], strict=True
        )
    ]


def _map(map_HW: Tensor, scale: float) -> np.ndarray:
    return map_pixels(map_HW, scale or 1.0)


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
    wrong = [
        f"{key} has {t.shape[1]} entries for each image instead of 2"
        for key, t in found.items()
        if _not_two(shapes[key], t)
    ]
    classes_of_run = len(record.class_names)
    for key in classes:
        low, high = int(found[key].min()), int(found[key].max())
        if low < 0 or high >= classes_of_run:
            wrong.append(
                f"{key} has numbers from {low} to {high}, but the run has {classes_of_run} classes"
            )
    if wrong:
        raise InputError(
            f"{file} is damaged: {wrong[0]}; restore the file, or delete it to leave this part out "
            "of the report"
        )
    return found


def _not_two(shape: str, tensor: Tensor) -> bool:
    return "R" in shape.split()[1] and tensor.shape[1] != 2
