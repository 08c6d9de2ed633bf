"""Whether doubted labels are the wrong ones: labels changed on purpose, and who finds them.

    python -m studies.mislabels --data parquet:data/dtd10 --out results/mislabels

Features of a network that knows ImageNet are computed once, frozen. Then, for each seed, a tenth of
the training labels is changed: each to one of the other classes at random ("uniform"), or to the
class that it is most often confused with ("confusable"). Every score ranks all training images, and
the area under the precision-recall curve (average precision) says how far up the changed ones
stand. Labels that were wrong before count as right ones, for every score alike. Seeds 0 to 7 were
looked at while the scores were being designed; the table is of others.

Shape suffixes: N images, F features, K classes.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from selfexplain.data import load_data, normalise
from selfexplain.errors import exit_on_bad_input
from selfexplain.evaluation.mislabels import (
    FOLDS,
    fold_of,
    label_margins,
    out_of_fold_probabilities,
    second_opinion,
)
from selfexplain.evaluation.statistics import paired_difference
from selfexplain.experiments.fit.head import features_and_head
from selfexplain.files import atomic_file
from selfexplain.models import build_model
from selfexplain.models.build import pretraining_of

STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Inverse penalties C of the logistic heads, of which the likeliest is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MislabelConfig:
    """Change labels on purpose, and measure who finds them."""

    data: str = "parquet:data/dtd10"
    """Data set, as everywhere."""
    out: Path = Path("results/mislabels")
    """Folder of the log and the table."""
    model: str = "efficientnet_lite0"
    """Pretrained network whose features are used."""
    image_size: int = 128
    """Pixels a side."""
    share: float = 0.1
    """Share of the labels that are changed."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Of what is changed."""


@torch.no_grad()
def frozen_features(config: MislabelConfig) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pooled features (N, F) of the training images, their labels (N,), and the class names."""
    data = load_data(config.data, image_size=config.image_size)
    model = build_model(
        config.model, num_classes=data.num_classes, in_channels=3, pretrained=True
    ).eval()
    mean_C, std_C = pretraining_of(config.model).statistics(3)
    rows = torch.arange(len(data.train)).split(50)
    batches = [normalise(data.train.read(rows_B), mean_C, std_C) for rows_B in rows]
    features, _ = features_and_head(model, batches[0][:2])
    pooled = [features(x_BCHW).mean(dim=(2, 3)) for x_BCHW in batches]
    return torch.cat(pooled), data.train.labels_N, data.class_names


def confused_with(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """For each class the other one that gets most of its images' probability, (K,)."""
    k = probabilities_NK.shape[1]
    sums_KK = torch.zeros(k, k, dtype=probabilities_NK.dtype)
    sums_KK.index_add_(0, labels_N, probabilities_NK)
    return sums_KK.fill_diagonal_(-torch.inf).argmax(dim=1)


def changed_labels(
    labels_N: Tensor, share: float, seed: int, num_classes: int, to_K: Tensor | None = None
) -> Tensor:
    """Labels of which a share, drawn by seed, is another class: `to_K`'s, or a random one."""
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(labels_N))
    chosen = torch.randperm(len(labels_N), generator=generator)[:count]
    step = torch.randint(1, num_classes, (count,), generator=generator)
    given_N = labels_N.clone()
    mine = labels_N[chosen]
    given_N[chosen] = (mine + step) % num_classes if to_K is None else to_K[mine]
    return given_N


def logistic_probabilities(features_NF: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Out-of-fold probabilities (N, K) of logistic heads on standardised features."""
    x, y, fold_N = features_NF.double().numpy(), labels_N.numpy(), fold_of(labels_N).numpy()
    best = None
    for strength in STRENGTHS:
        found = torch.zeros(len(y), num_classes, dtype=torch.float64)
        for fold in range(FOLDS):
            out = fold_N == fold
            scale = StandardScaler().fit(x[~out])
            head = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
            head.fit(scale.transform(x[~out]), y[~out])
            said = torch.from_numpy(head.predict_proba(scale.transform(x[out])))
            rows = torch.from_numpy(out).nonzero()[:, 0]
            found[rows[:, None], torch.from_numpy(head.classes_)] = said
        likelihood = found.gather(1, labels_N[:, None]).clamp_min(1e-12).log().sum()
        if best is None or likelihood > best[0]:
            best = likelihood, found
    assert best is not None
    return best[1]


# The baseline: confident learning.


def confident_joint(probabilities_NK: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Counts (K, K) of label by confident class, and the confident class of each image (N,).

    Source: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 2021, equations 1 and 2. An image is confidently of class j if its probability is
    at least the mean one of the images labelled j; of several such classes the likeliest counts,
    and -1 stands for none.
    """
    k = probabilities_NK.shape[1]
    threshold_K = torch.stack([probabilities_NK[labels_N == j, j].mean() for j in range(k)])
    confident_NK = probabilities_NK.where(probabilities_NK >= threshold_K, -torch.inf)
    class_N = confident_NK.argmax(dim=1).where(confident_NK.amax(dim=1).isfinite(), -1)
    counted = class_N >= 0
    pairs = labels_N[counted] * k + class_N[counted]
    return torch.bincount(pairs, minlength=k * k).reshape(k, k), class_N


def prune_by_noise_rate(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Whether each image is pruned (N,), by noise rate (PBNR, section 3.2 of the same paper).

    The joint is scaled so that its rows sum to the counts of the labels; of each pair of different
    classes i and j, as many images labelled i are pruned as its entry says, those with the
    greatest p_j - p_i.
    """
    joint_KK, _ = confident_joint(probabilities_NK, labels_N)
    count_K = torch.bincount(labels_N, minlength=len(joint_KK))
    rows_K = joint_KK.sum(dim=1, keepdim=True).clamp_min(1)
    scaled_KK = (joint_KK / rows_K * count_K[:, None]).round().long()
    pruned_N = torch.zeros_like(labels_N, dtype=torch.bool)
    for i in range(len(joint_KK)):
        places = (labels_N == i).nonzero()[:, 0]
        for j in range(len(joint_KK)):
            if i != j and scaled_KK[i, j]:
                gap = probabilities_NK[places, j] - probabilities_NK[places, i]
                pruned_N[places[gap.argsort(descending=True)[: int(scaled_KK[i, j])]]] = True
    return pruned_N


def flagged_first(doubt_N: Tensor, flagged_N: Tensor) -> Tensor:
    """Doubts (N,) by which all flagged images stand before the others, else in their order."""
    return doubt_N + flagged_N.double() * (doubt_N.max() - doubt_N.min() + 1)


def by_margin(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Doubts (N,): how much likelier the likeliest other class is."""
    return -label_margins(probabilities_NK, labels_N)


def by_likelihood(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Doubts (N,): how improbable the label is."""
    return -probabilities_NK.gather(1, labels_N[:, None])[:, 0]


def off_diagonal(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Whether the confident joint counts an image off its diagonal (N,)."""
    _, class_N = confident_joint(probabilities_NK, labels_N)
    return (class_N >= 0) & (class_N != labels_N)


Doubt = Callable[[Tensor, Tensor], Tensor]
"""From probabilities (N, K) and labels (N,) to doubts (N,)."""


def after(flags: Doubt, doubt: Doubt) -> Doubt:
    """What is flagged comes first; the order within and after is that of a doubt."""
    return lambda p_NK, y_N: flagged_first(doubt(p_NK, y_N), flags(p_NK, y_N))


SCORES: dict[str, tuple[bool, Doubt]] = {
    "second heads, likelihood": (True, by_likelihood),
    "second heads, margin": (True, by_margin),
    "first heads, likelihood": (False, by_likelihood),
    "first heads, margin": (False, by_margin),
    "confident learning, joint, likelihood": (False, after(off_diagonal, by_likelihood)),
    "confident learning, joint, margin": (False, after(off_diagonal, by_margin)),
    "confident learning, noise rate, margin": (False, after(prune_by_noise_rate, by_margin)),
}
"""Whether the second heads are asked, and what is made of their probabilities."""


def found(doubt_N: Tensor, wrong_N: Tensor) -> dict[str, float]:
    """Average precision, and precision among as many as were changed, in percent."""
    top = doubt_N.argsort(descending=True)[: int(wrong_N.sum())]
    return {
        "average_precision": 100 * float(average_precision_score(wrong_N.numpy(), doubt_N.numpy())),
        "precision_at_count": 100 * wrong_N[top].double().mean().item(),
    }


def run(config: MislabelConfig) -> list[dict[str, Any]]:
    """One row for each kind of change, seed, head and score."""
    features_NF, labels_N, names = frozen_features(config)
    k = len(names)
    clean_NK = out_of_fold_probabilities(features_NF, labels_N, k)
    to_K = confused_with(clean_NK, labels_N)
    rows = []
    for kind in ("uniform", "confusable"):
        for seed in config.seeds:
            given_N = changed_labels(
                labels_N, config.share, seed, k, None if kind == "uniform" else to_K
            )
            first_NK = out_of_fold_probabilities(features_NF, given_N, k)
            second_NK = second_opinion(features_NF, given_N, k)
            logistic_NK = logistic_probabilities(features_NF, given_N, k)
            rows += [
                {"change": kind, "seed": seed, "score": name}
                | found(doubt(p_NK, given_N), given_N != labels_N)
                for name, p_NK, doubt in [
                    *(
                        (name, second_NK if second else first_NK, doubt)
                        for name, (second, doubt) in SCORES.items()
                    ),
                    *(
                        (f"{name}, logistic heads", logistic_NK, doubt)
                        for name, (second, doubt) in SCORES.items()
                        if not second
                    ),
                ]
            ]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation over seeds, and the paired difference from the first score."""
    lines = [
        "| labels changed | score | average precision, % | from the first, 95 % interval | "
        "precision at the true count, % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(row["change"] for row in rows):
        mine = [row for row in rows if row["change"] == kind]
        names = list(dict.fromkeys(row["score"] for row in mine))
        lines += [f"| {kind} | {name} | {_line(mine, name, names[0])} |" for name in names]
    return "\n".join(lines) + "\n"


def _line(rows: list[dict[str, Any]], score: str, first: str) -> str:
    values, base = (
        [row["average_precision"] for row in rows if row["score"] == name]
        for name in (score, first)
    )
    exact = [row["precision_at_count"] for row in rows if row["score"] == score]
    against = ""
    if score != first:
        gap = paired_difference(values, base)
        interval = "" if gap.ci95 is None else f" ({gap.ci95[0]:+.2f} to {gap.ci95[1]:+.2f})"
        against = f"{gap.mean:+.2f}{interval}"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    mean = statistics.fmean(values)
    return f"{mean:.2f}{deviation} | {against} | {statistics.fmean(exact):.1f}"


def main() -> None:
    """Measure, and write the log and the table."""
    config = tyro.cli(MislabelConfig)
    with exit_on_bad_input("studies.mislabels"):
        rows = run(config)
        with atomic_file(config.out / "scores.jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        text = table(rows)
        with atomic_file(config.out / "table.md") as file:
            file.write(text.encode())
        print(text)


if __name__ == "__main__":
    main()
