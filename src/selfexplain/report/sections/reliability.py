"""Reliability diagrams: how often a model is right when it says how sure it is.

Shape suffixes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from selfexplain.evaluation import calibration_error
from selfexplain.evaluation.metrics import BINS
from selfexplain.report.html import Section, figure, render
from selfexplain.report.sections.record import Record
from selfexplain.report.style import method_styles, series_of


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose confidence lies in [low, high); means are None where there is none."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(logits_NK: Tensor, y_N: Tensor, bins: int = BINS) -> list[Bin]:
    """Confidence and accuracy over bins of equal width, as in Guo et al. (2017), figure 1.

    The bins are those of `calibration_error`, but that a confidence of exactly 1, which float32 can
    reach, counts in the last bin here and in one of its own there.

    Args:
        logits_NK: logits (N, K).
        y_N: labels (N,).
        bins: number of bins.

    Example:
        >>> [b.count for b in reliability_bins(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), 4)]
        [0, 0, 1, 0]
    """
    confidence_N, answer_N = logits_NK.float().softmax(dim=1).max(dim=1)
    edges = torch.linspace(0, 1, bins + 1)
    place_N = (torch.bucketize(confidence_N, edges, right=True) - 1).clamp(max=bins - 1)
    found = []
    for i in range(bins):
        mine_N = place_N == i
        some = bool(mine_N.any())
        found.append(
            Bin(
                edges[i].item(),
                edges[i + 1].item(),
                int(mine_N.sum()),
                confidence_N[mine_N].double().mean().item() if some else None,
                (answer_N == y_N)[mine_N].double().mean().item() if some else None,
            )
        )
    return found


def reliability_section(records: Sequence[Record]) -> Section:
    """A diagram for the first seed of each objective, with its ECE and the counts of the bins.

    Example:
        >>> from selfexplain.report.sections import Predictions
        >>> said = Predictions(logits_NK=torch.zeros(1, 2), labels_N=torch.tensor([0]))
        >>> run = Record(objective="a", seed=0, class_names=("x", "y"), predictions=said)
        >>> "ECE 50.00 %" in reliability_section([run]).body
        True
    """
    first: dict[str, Record] = {}
    for record in records:
        if record.predictions is not None:
            first.setdefault(record.objective, record)
    if not first:
        return Section("Reliability", NOTHING)
    styles = method_styles(list(dict.fromkeys(record.objective for record in records)))
    diagrams = [_diagram(record, styles[name].colour) for name, record in first.items()]
    return Section("Reliability", render("reliability.html", diagrams=diagrams))


NOTHING = (
    "The runs have no predictions: they are not finished, or an older version of selfexplain "
    "made them."
)


def _diagram(record: Record, colour: str) -> dict[str, object]:
    assert record.predictions is not None
    logits_NK, y_N = record.predictions.logits_NK, record.predictions.labels_N
    bins = reliability_bins(logits_NK, y_N)
    ece = f"ECE {calibration_error(logits_NK, y_N):.2f} %"
    alt = f"Reliability diagram of {record.name}, {ece}; its numbers are in the table below."
    rows = [
        (
            f"{100 * b.low:.0f} to {100 * b.high:.0f}",
            b.count,
            "" if b.confidence is None else f"{100 * b.confidence:.1f}",
            "" if b.accuracy is None else f"{100 * b.accuracy:.1f}",
        )
        for b in bins
    ]
    chart = figure(_figure(bins, colour), alt)
    return {
        "record": record,
        "ece": ece,
        "chart": chart,
        "rows": rows,
        "series": series_of(colour),
    }


def _figure(bins: Sequence[Bin], colour: str) -> Figure:
    drawn = Figure(figsize=(3.0, 3.2), layout="constrained")
    upper, lower = drawn.subplots(2, sharex=True, height_ratios=(3, 1))
    middles = [100 * (b.low + b.high) / 2 for b in bins]
    width = 92 / len(bins)
    upper.bar(middles, [100 * (b.accuracy or 0) for b in bins], width, color=colour, alpha=0.6)
    upper.plot([0, 100], [0, 100], color="black", linewidth=1.2, dashes=(4, 3))
    upper.set_ylabel("right, %", fontsize=9)
    upper.set_ylim(0, 102)
    lower.bar(middles, [b.count for b in bins], width, color=colour, alpha=0.6)
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.6)
    lower.yaxis.set_major_formatter(ScalarFormatter())
    lower.set_ylabel("images", fontsize=9)
    lower.set_xlabel("confidence, %", fontsize=9)
    lower.set_xlim(0, 100)
    for axes in (upper, lower):
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    lower.minorticks_off()
    drawn.align_ylabels()
    return drawn
