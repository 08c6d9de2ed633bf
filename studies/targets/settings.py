"""Five settings side by side: does a self-made target beat label smoothing and PS-KD anywhere?

    python -m studies.targets.settings --study results/targets --out results/targets/settings.md

reads the head's `test.jsonl` and the `results.json` of each comparison in the study's folder. A
target *wins* in a setting if its accuracy is above that of label smoothing and of PS-KD, and its
NLL, as it comes and after temperature scaling, is not worse than that of the better of the two;
"above" and "worse" mean a paired t-test with p < 0.05 after Holm's correction for all targets of
the setting. What similarity adds is the difference to the same target with its values spread evenly
and on shuffled classes, with one correction for all settings.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.evaluation import PairedDifference, holm, paired_difference
from selfexplain.files import atomic_file
from selfexplain.report.tables import with_spread

SETTINGS = {
    "head": "head on frozen features, CIFAR-100, 10 images a class",
    "dtd10": "fine-tuning, ten textures, 800 photographs",
    "cifar-few": "fine-tuning, CIFAR-100, 10 images a class",
    "scratch": "from scratch, CIFAR-100, 10,000 images",
    "imagenette": "from scratch, Imagenette, 1,000 images",
}
"""Folder of the study -> what was trained there."""
HEAD_NAMES = {
    "plain": "standard",
    "label smoothing": "label_smoothing",
    "PS-KD": "ps_kd",
    "ranks, non-true KL": "introspective",
    "own, even": "own_mass, even",
    "own, attribution": "own_mass, similarity",
    "own, attribution, permuted": "own_mass, permuted",
}
"""Form of the head's study -> the same target's name in the table."""
SIMILARITY, CONTROLS = "own_mass, similarity", ("own_mass, even", "own_mass, permuted")
RIVALS = ("label_smoothing", "ps_kd")
METRICS = ("accuracy", "nll", "nll_scaled")

Scores = Mapping[str, Sequence[float]]
"""Metric -> one value for each seed, in the order of the seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingsConfig:
    """Put the settings of the study side by side."""

    study: Path
    """Folder of the study."""
    out: Path
    """Markdown file to write."""


def read_head(path: Path) -> dict[str, Scores]:
    """The head's test: target -> scores over its seeds."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        HEAD_NAMES[row["form"]]: {
            "accuracy": row["accuracy"], "nll": row["nll"], "nll_scaled": row["scaled_nll"],
        }
        for row in rows
        if row["form"] in HEAD_NAMES
    }  # fmt: skip


def read_comparison(path: Path) -> dict[str, Scores]:
    """A comparison: target -> scores over the seeds that all objectives have finished."""
    rows = json.loads(path.read_text())["rows"]
    by_name: dict[str, dict[int, Mapping[str, float]]] = {}
    for row in rows:
        by_name.setdefault(name_of(row["objective"]), {})[row["seed"]] = row
    seeds = sorted(set.intersection(*(set(found) for found in by_name.values())))
    return {
        name: {metric: [found[seed][metric] for seed in seeds] for metric in METRICS}
        for name, found in by_name.items()
    }


def name_of(objective: str) -> str:
    """The name in the table of an objective as a comparison writes it.

    Example:
        >>> name_of("own_mass:kappa=0,cap=0.1"), name_of("ps_kd:alpha=0.4")
        ('own_mass, even', 'ps_kd')
    """
    name, _, options = objective.partition(":")
    if name != "own_mass":
        return name
    parts = options.split(",")
    if "control=permuted" in parts:
        return "own_mass, permuted"
    return "own_mass, even" if "kappa=0" in parts else "own_mass, similarity"


def wins(scores: Mapping[str, Scores], target: str) -> bool:
    """Whether a target beats label smoothing and PS-KD, as the module's docstring says."""
    rivals = [name for name in RIVALS if name in scores]
    above = all(
        found.mean > 0 and _below(corrected(scores, rival, "accuracy")[target])
        for rival in rivals
        if (found := difference(scores, target, rival, "accuracy"))
    )
    worse = False
    for metric in METRICS[1:]:
        best = min(rivals, key=lambda rival: statistics.fmean(scores[rival][metric]))
        found = difference(scores, target, best, metric)
        worse |= found.mean > 0 and _below(corrected(scores, best, metric)[target])
    return above and not worse


def difference(
    scores: Mapping[str, Scores], target: str, rival: str, metric: str
) -> PairedDifference:
    """Target minus rival, paired by seed."""
    return paired_difference(scores[target][metric], scores[rival][metric])


def corrected(scores: Mapping[str, Scores], rival: str, metric: str) -> dict[str, float | None]:
    """Holm's p of every target against one rival."""
    names = [name for name in scores if name != rival]
    p_values = [difference(scores, name, rival, metric).p_value for name in names]
    return dict(zip(names, holm(p_values), strict=True))


def _below(p: float | None) -> bool:
    return p is not None and p < 0.05


def table(found: Mapping[str, Mapping[str, Scores]]) -> str:
    """Markdown: a block of rows for each setting, then what similarity adds in each."""
    lines = [
        "| setting | target | accuracy % | - label smoothing | - PS-KD | NLL | scaled NLL | wins |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for setting, scores in found.items():
        seeds = len(next(iter(scores.values()))["accuracy"])
        for i, name in enumerate(scores):
            cells = [
                f"{SETTINGS[setting]}, {seeds} seeds" if i == 0 else "",
                name,
                _spread(scores[name]["accuracy"], 2),
                *("" if name == rival else _difference(scores, name, rival) for rival in RIVALS),
                _spread(scores[name]["nll"], 3),
                _spread(scores[name]["nll_scaled"], 3),
                "" if name in ("standard", *RIVALS) else "yes" if wins(scores, name) else "no",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "What similarity adds: own_mass with similarity, minus the same mass spread evenly, and "
        "minus the same values on shuffled classes.",
        "",
        "| setting | accuracy - even | accuracy - permuted | scaled NLL - even "
        "| scaled NLL - permuted |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    added = similarity_adds(found)
    p_values = holm([one.p_value for row in added.values() for one, _ in row])
    stars = iter([_below(p) for p in p_values])
    for setting, row in added.items():
        cells = [_interval(one, digits, starred=next(stars)) for one, digits in row]
        lines.append(f"| {SETTINGS[setting]} | " + " | ".join(cells) + " |")
    note = (
        "Mean ± standard deviation over seeds; differences in points or nats, paired by seed, "
        "with their 95 % interval; * p < 0.05 after Holm's correction, in the first table for all "
        "targets of the setting, in the second for all of its differences."
    )
    return "\n".join([*lines, "", note]) + "\n"


def similarity_adds(
    found: Mapping[str, Mapping[str, Scores]],
) -> dict[str, list[tuple[PairedDifference, int]]]:
    """Setting -> what similarity adds to each control, in accuracy and scaled NLL; and digits."""
    return {
        setting: [
            (difference(scores, SIMILARITY, control, metric), digits)
            for metric, digits in (("accuracy", 2), ("nll_scaled", 3))
            for control in CONTROLS
        ]
        for setting, scores in found.items()
        if SIMILARITY in scores and all(control in scores for control in CONTROLS)
    }


def _difference(scores: Mapping[str, Scores], name: str, rival: str) -> str:
    found = difference(scores, name, rival, "accuracy")
    return _interval(found, 2, starred=_below(corrected(scores, rival, "accuracy")[name]))


def _interval(found: PairedDifference, digits: int, *, starred: bool) -> str:
    if found.ci95 is None:
        return f"{found.mean:+.{digits}f}"
    half = (found.ci95[1] - found.ci95[0]) / 2
    return f"{found.mean:+.{digits}f} ± {half:.{digits}f}{'*' if starred else ''}"


def _spread(values: Sequence[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return with_spread(statistics.fmean(values), spread, digits)


def read_settings(study: Path) -> dict[str, dict[str, Scores]]:
    """Every setting of the study that has results.

    Raises:
        InputError: none has.
    """
    found: dict[str, dict[str, Scores]] = {}
    if (head := study / "head" / "test.jsonl").exists():
        found["head"] = read_head(head)
    for name in list(SETTINGS)[1:]:
        if (results := study / name / "results.json").exists():
            found[name] = read_comparison(results)
    if not found:
        raise InputError(f"{study} holds no results; run results/targets/run.sh first")
    return found


def main() -> None:
    """Write the table."""
    config = tyro.cli(SettingsConfig)
    with exit_on_bad_input("studies.targets.settings"), atomic_file(config.out) as file:
        file.write(table(read_settings(config.study)).encode())


if __name__ == "__main__":
    main()
