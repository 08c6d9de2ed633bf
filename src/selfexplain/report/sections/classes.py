"""Which classes a model finds alike, beside those that it mistakes for one another.

Shape suffix: K classes, twice in matrices, the true one first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from selfexplain.report.html import Section, figure, part, render
from selfexplain.report.sections.record import Predictions, Record

NUMBERED = 15
"""Matrices of so many classes have numbers in their cells; larger ones are ordered by likeness."""
NAMED = 40
"""So many names of classes fit beside a matrix."""
NARROW = 9
"""Letters of a name beside a matrix with numbers."""
STRONG = (0.11, 0.47, 0.71)
"""Colour of the greatest cell of a picture, to be seen on white and on black."""
STRONGEST = 10
"""Pairs in the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """Mean soft target that a model's explanations give the scored images of each class."""

    similarity_KK: Tensor
    """Row: true class; its diagonal is 0, and it sums to 1, or to 0 if the class has no image."""
    count_K: Tensor
    """Images of each class."""


def similarity_of(record: Record) -> Similarity | None:
    """What a run left of the classes that its model finds alike.

    Raises:
        InputError: the file cannot be read, or has other shapes.

    Example:
        >>> similarity_of(Record(objective="a", seed=0, class_names=())) is None
        True
    """
    found = record.read("similarity.safetensors", {"similarity": "float KK", "count": "int K"})
    if found is None:
        return None
    return Similarity(similarity_KK=found["similarity"], count_K=found["count"])


def confusion(predictions: Predictions) -> Tensor:
    """Share of the images of each class that the model takes for each class, (K, K).

    A row sums to 1, or to 0 where the class has no image.

    Example:
        >>> confusion(Predictions(logits_NK=torch.eye(2), labels_N=torch.tensor([0, 0])))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """
    k = predictions.logits_NK.shape[1]
    pairs_N = predictions.labels_N * k + predictions.logits_NK.argmax(dim=1)
    count_KK = torch.bincount(pairs_N, minlength=k * k).reshape(k, k).float()
    return count_KK / count_KK.sum(dim=1, keepdim=True).clamp(min=1)


def agreement(similarity: Similarity, confusion_KK: Tensor) -> float | None:
    """Spearman's rank correlation of both matrices, the diagonal and classes without images aside.

    Returns:
        None where it is not defined: nothing is confused, or there are too few classes.

    Example:
        >>> a = torch.tensor([[0.0, 0.9, 0.1], [0.8, 0.0, 0.2], [0.3, 0.7, 0.0]])
        >>> agreement(Similarity(similarity_KK=a, count_K=torch.ones(3)), a)
        1.0
    """
    from scipy.stats import spearmanr  # here, as scipy.stats takes a second to import

    off_KK = ~torch.eye(len(confusion_KK), dtype=torch.bool) & (similarity.count_K > 0)[:, None]
    a, b = similarity.similarity_KK[off_KK], confusion_KK[off_KK]
    if len(a) < 3 or a.min() == a.max() or b.min() == b.max():
        return None
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def strongest_pairs(similarity_KK: Tensor, most: int = STRONGEST) -> list[tuple[int, int]]:
    """True class and other class of the greatest entries, the greatest first.

    Example:
        >>> strongest_pairs(torch.tensor([[0.0, 0.4, 0.6], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), 2)
        [(1, 0), (0, 2)]
    """
    k = len(similarity_KK)
    order = similarity_KK.flatten().argsort(descending=True, stable=True)[:most].tolist()
    return [(i // k, i % k) for i in order if similarity_KK.flatten()[i] > 0]


def classes_section(records: Sequence[Record]) -> Section:
    """Both matrices of the first run that has them, and the pairs that it finds most alike.

    Example:
        >>> left = {"similarity": 1 - torch.eye(2), "count": torch.tensor([2, 0])}
        >>> run = Record(
        ...     objective="a",
        ...     seed=0,
        ...     class_names=("cat", "dog"),
        ...     predictions=Predictions(logits_NK=torch.eye(2), labels_N=torch.tensor([0, 0])),
        ...     read=lambda name, shapes: left,
        ... )
        >>> '<th scope="row">cat</th><td class="words">dog</td>' in classes_section([run]).body
        True
    """
    title = "Classes that look alike to the model"
    for record in records:
        similarity = similarity_of(record)
        if similarity is not None and record.predictions is not None:
            body = _body(record, similarity, confusion(record.predictions))
            return Section(title, body, group=record.name)
    return Section(title, NOTHING)


def _body(record: Record, similarity: Similarity, confusion_KK: Tensor) -> Markup:
    similarity_KK, names = similarity.similarity_KK, record.class_names
    many = len(names) > NUMBERED
    order = alike_order(similarity_KK) if many else list(range(len(names)))
    return render(
        "classes.html",
        record=record,
        rank_correlation=agreement(similarity, confusion_KK),
        charts=[
            _matrix(similarity_KK, "alike by explanations", names, order),
            _matrix(confusion_KK, "mistaken for", names, order),
        ],
        # By name where all fit; beyond, what is alike stands together.
        ordered=[names[k] for k in order] if many else [],
        wide=many and len(names) <= NAMED,
        pairs=[
            (
                names[y],
                names[c],
                f"{100 * similarity_KK[y, c].item():.1f}",
                f"{100 * confusion_KK[y, c].item():.1f}",
            )
            for y, c in strongest_pairs(similarity_KK)
        ],
    )


NOTHING = (
    "The runs have no class similarities: they are not finished, or an older version of "
    "selfexplain made them."
)


def alike_order(similarity_KK: Tensor) -> list[int]:
    """Classes in an order that puts those near each other that are alike.

    By average linkage of what both rows of a pair say, its leaves ordered by Bar-Joseph et al.
    (2001); classes that are alike to none keep their places at the end.

    Example:
        >>> a = torch.tensor([[0.0, 0.1, 0.9], [0.2, 0.0, 0.1], [0.8, 0.2, 0.0]])
        >>> alike_order(a) in ([1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 0, 1])
        True
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # here, as it is slow to import

    both_KK = (similarity_KK + similarity_KK.T).double()
    known = (both_KK.sum(dim=1) > 0).nonzero()[:, 0].tolist()
    others = [k for k in range(len(both_KK)) if k not in set(known)]
    if len(known) < 3:
        return [*known, *others]
    near_KK = both_KK[known][:, known]
    above = torch.triu_indices(len(known), len(known), offset=1)
    distances = (near_KK.max() - near_KK)[above[0], above[1]].numpy()
    leaves = leaves_list(linkage(distances, method="average", optimal_ordering=True))
    return [*(known[leaf] for leaf in leaves.tolist()), *others]


def _matrix(matrix_KK: Tensor, title: str, names: Sequence[str], order: Sequence[int]) -> Markup:
    """A matrix, white at 0: with numbers if it is small enough, else as a picture."""
    cells_KK = 100 * matrix_KK.clone().fill_diagonal_(0)[order][:, order]
    named = [names[k] for k in order]
    if len(names) > NUMBERED:
        return _picture(cells_KK, title, named)
    greatest = max(float(cells_KK.max()), 1e-9)
    return part(
        "matrix",
        f"{title}, %",
        [_short(name, NARROW) for name in named],
        [
            [None if i == j else (f"{cell:.0f}", cell / greatest) for j, cell in enumerate(row)]
            for i, row in enumerate(cells_KK.tolist())
        ],
    )


def _picture(cells_KK: Tensor, title: str, names: Sequence[str]) -> Markup:
    """Each cell as strong as its number, over the page's own white or black."""
    named = len(names) <= NAMED
    drawn = Figure(figsize=(6.4, 5.8) if named else (4.1, 3.7), layout="constrained")
    axes = drawn.subplots()
    fading = LinearSegmentedColormap.from_list("fading", [(*STRONG, 0.0), (*STRONG, 1.0)])
    shown = axes.imshow(cells_KK.numpy(), cmap=fading, vmin=0, interpolation="none")
    bar = drawn.colorbar(shown, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.4)
    axes.set_title(f"{title}, %", loc="left", fontsize=10)
    axes.set_xlabel("other class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    if named:
        short = [_short(name) for name in names]
        long = max(map(len, short)) > 2
        axes.set_xticks(range(len(names)), short, rotation=90 if long else 0)
        axes.set_yticks(range(len(names)), short)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(fontsize=7, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_linewidth(0.4)
    alt = f"Heat map, classes {title}, {len(names)} by {len(names)} classes"
    made = figure(drawn, f"{alt}; the strongest pairs are in the table below.")
    # Names that were shrunk to a phone's width could not be read.
    return part("scroll", "whole", title, caller=lambda: made) if named else made


def _short(name: str, most: int = 14) -> str:
    """A class name that fits beside a heat map: beginning and end, which tell names apart.

    Example:
        >>> _short("sweet_pepper_number_10")
        'sweet_…mber_10'
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[half - most + 1 :]}"
