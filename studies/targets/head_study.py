"""Which self-made target helps a linear head on frozen features?

    python -m studies.targets.head_study \
        --features data/targets/cifar100.pt --out results/targets/head

Two steps, each of which continues where it was stopped: every form's setting, learning rate, weight
decay and number of epochs are chosen on the validation images, with seeds of their own; then every
form is trained on the seeds of the test, and asked once. Each line of the
logs is one setting with all of its seeds; `table.md` is made from them.

Shape suffixes: R seeds, M images, C features, P places, K classes.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from studies.json_log import JSONLog
from studies.targets.forms import FORMS, Form
from studies.targets.heads import Heads, TrainingSets, train_heads
from torch import Tensor

from selfexplain.errors import exit_on_bad_input
from selfexplain.evaluation import fit_temperature, holm, paired_difference, score
from selfexplain.files import read_tensors

LEARNING_RATES = (3.0, 10.0)
DECAYS = (1e-5, 3e-5, 1e-4)
EPOCHS = (20, 60)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadStudyConfig:
    """Compare self-made targets of linear heads on frozen features."""

    features: Path
    """File that `studies.targets.features` wrote."""
    out: Path
    """Folder for tune.jsonl, test.jsonl and table.md."""
    per_class: int = 10
    """Training images of each class that a seed draws."""
    tune_seeds: int = 3
    """Seeds on which settings are chosen; they are not used in the test."""
    seeds: int = 20
    """Seeds of the test."""
    forms: tuple[str, ...] = tuple(FORMS)
    """Forms to compare."""


class Laboratory:
    """The features in memory, and draws from them.

    Args:
        features: what `studies.targets.features.compute` returns.
        per_class: training images of each class in a draw.
    """

    def __init__(self, features: dict[str, Tensor], per_class: int) -> None:
        self.maps_MCP, self.labels_M = features["pool_maps"], features["pool_labels"].long()
        pooled_MC = torch.cat([maps.float().mean(2) for maps in self.maps_MCP.split(500)])
        # One factor for all: images have a mean square norm of 1, whatever the network's scale.
        self.scale = float(pooled_MC.square().sum(1).mean().rsqrt())
        self.x_MC = pooled_MC * self.scale
        self.mirrored_MC = features["pool_mirrored"] * self.scale
        self.energy_MC = torch.cat(
            [maps.float().square().sum(2) for maps in self.maps_MCP.split(500)]
        )
        self.validation = features["validation"] * self.scale, features["validation_labels"].long()
        self.test = features["test"] * self.scale, features["test_labels"].long()
        self.num_classes = int(self.labels_M.max()) + 1
        self.per_class = per_class

    def draw(self, seeds: list[int]) -> TrainingSets:
        """Each seed's images: `per_class` of each class, from the pool."""
        index_RN = torch.stack([self._places(seed) for seed in seeds])
        return TrainingSets(
            x_RNC=self.x_MC[index_RN],
            y_RN=self.labels_M[index_RN],
            energy_RNC=self.energy_MC[index_RN],
            mirrored_RNC=self.mirrored_MC[index_RN],
            maps_MCP=self.maps_MCP,
            index_RN=index_RN,
        )

    def _places(self, seed: int) -> Tensor:
        order_M = torch.randperm(
            len(self.labels_M), generator=torch.Generator().manual_seed(10_000 + seed)
        )
        labels_M = self.labels_M[order_M]
        return torch.cat(
            [order_M[labels_M == label][: self.per_class] for label in range(self.num_classes)]
        )

    def train(self, form: Form, setting: dict[str, Any], seeds: list[int]) -> Heads:
        """Heads of one setting, one for each seed."""
        return train_heads(
            form,
            setting["knobs"],
            self.draw(seeds),
            num_classes=self.num_classes,
            epochs=setting["epochs"],
            lr=setting["lr"],
            decay=setting["decay"],
            seeds=seeds,
        )

    def validate(self, heads: Heads) -> dict[str, list[float]]:
        """Accuracy in % and NLL in nats on the validation images, seed by seed."""
        x_MC, y_M = self.validation
        z_RMK = heads.logits(x_MC)
        correct_R = (z_RMK.argmax(2) == y_M).double().mean(1) * 100
        nll_R = [float(torch.nn.functional.cross_entropy(z_MK, y_M)) for z_MK in z_RMK]
        return {"accuracy": correct_R.tolist(), "nll": nll_R}

    def examine(self, heads: Heads) -> dict[str, list[float]]:
        """Scores on the test images, seed by seed; the temperature is fitted on validation."""
        found: dict[str, list[float]] = {}
        for z_MK, held_MK in zip(
            heads.logits(self.test[0]), heads.logits(self.validation[0]), strict=True
        ):
            temperature = fit_temperature(held_MK, self.validation[1])
            scores = score(z_MK, self.test[1])
            scaled = float(torch.nn.functional.cross_entropy(z_MK / temperature, self.test[1]))
            row = {
                "accuracy": scores.accuracy,
                "nll": scores.nll,
                "scaled_nll": scaled,
                "ece": scores.ece,
                "temperature": temperature,
            }
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        return found


def settings_of(form: Form) -> Iterator[dict[str, Any]]:
    """Every setting of a form that is tried."""
    grid = itertools.product(form.settings, LEARNING_RATES, DECAYS, EPOCHS)
    for knobs, lr, decay, epochs in grid:
        yield {"knobs": dict(knobs), "lr": lr, "decay": decay, "epochs": epochs}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The setting with the highest mean validation accuracy; of equals, the lowest NLL."""
    return max(rows, key=lambda row: (mean(row["accuracy"]), -mean(row["nll"])))


def mean(values: list[float]) -> float:
    """Mean."""
    return sum(values) / len(values)


def tune(name: str, laboratory: Laboratory, log: JSONLog, seeds: list[int]) -> dict[str, Any]:
    """Try every setting of a form on validation; the best line."""
    rows = []
    for setting in settings_of(FORMS[name]):
        key = {"form": name, **setting}
        row = log.find(key)
        if row is None:
            start = time.perf_counter()
            heads = laboratory.train(FORMS[name], setting, seeds)
            row = {**key, **laboratory.validate(heads), "seconds": time.perf_counter() - start}
            log.add(row)
        rows.append(row)
    return best(rows)


def run(config: HeadStudyConfig) -> None:
    """All steps; each continues where it was stopped."""
    config.out.mkdir(parents=True, exist_ok=True)
    features = read_tensors(config.features, remedy="pass a file of studies.targets.features")
    laboratory = Laboratory(features, config.per_class)
    tuned, tested = (JSONLog(config.out / name) for name in ("tune.jsonl", "test.jsonl"))
    tune_seeds = list(range(100, 100 + config.tune_seeds))
    seeds = list(range(config.seeds))
    for name in config.forms:
        chosen = tune(name, laboratory, tuned, tune_seeds)
        setting = {key: chosen[key] for key in ("knobs", "lr", "decay", "epochs")}
        if tested.find({"form": name}) is None:
            heads = laboratory.train(FORMS[name], setting, seeds)
            tested.add({"form": name, **setting, "seeds": seeds, **laboratory.examine(heads)})
        (config.out / "table.md").write_text(table(tested.rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: scores, and paired differences to plain, label smoothing, PS-KD and the control."""
    by_name = {row["form"]: row for row in rows}
    head = (
        "| target | accuracy, % | NLL | scaled NLL | ECE, % | - plain "
        "| - label smoothing | - PS-KD | - its control | setting |\n"
        f"{'|---' * 10}|\n"
    )
    corrected = _corrected(by_name)
    lines = []
    for name, row in by_name.items():
        setting = ", ".join(
            [
                *(f"{k} {v:g}" for k, v in row["knobs"].items()),
                f"lr {row['lr']:g}",
                f"decay {row['decay']:g}",
                f"{row['epochs']} epochs",
            ]
        )
        cells = [
            name,
            _spread(row["accuracy"], 2),
            _spread(row["nll"], 3),
            _spread(row["scaled_nll"], 3),
            _spread(row["ece"], 1),
            *(corrected.get((name, other), "") for other in ("plain", "label smoothing", "PS-KD")),
            corrected.get((name, _control(name)), ""),
            setting,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = len(rows[0]["seeds"])
    note = (
        f"\nMean +- standard deviation of {seeds} seeds; differences of accuracy in points with "
        "the 95 % interval of paired differences, * where Holm's p over all forms of the column is "
        "below 0.05.\n"
    )
    return head + "\n".join(lines) + "\n" + note


def _control(name: str) -> str:
    """The form that refutes this one: its permuted or flattened control."""
    refuting = [other for other, form in FORMS.items() if form.control_of == name]
    return refuting[0] if refuting else ""


def _corrected(by_name: dict[str, dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Paired differences of accuracy, in words, with Holm's correction in each column."""
    said: dict[tuple[str, str], str] = {}
    columns = ["plain", "label smoothing", "PS-KD", "control"]
    for column in columns:
        pairs = [
            (name, _control(name) if column == "control" else column)
            for name in by_name
            if name != column
        ]
        pairs = [pair for pair in pairs if pair[1] in by_name]
        found = [
            paired_difference(by_name[a]["accuracy"], by_name[b]["accuracy"]) for a, b in pairs
        ]
        adjusted = holm([difference.p_value for difference in found])
        for pair, difference, p in zip(pairs, found, adjusted, strict=True):
            low, high = difference.ci95 or (difference.mean, difference.mean)
            star = "*" if p is not None and p < 0.05 else ""
            said[pair] = f"{difference.mean:+.2f} +- {(high - low) / 2:.2f}{star}"
    return said


def _spread(values: list[float], digits: int) -> str:
    values_R = torch.tensor(values, dtype=torch.float64)
    return f"{values_R.mean():.{digits}f} +- {values_R.std():.{digits}f}"


def main() -> None:
    """Run it."""
    config = tyro.cli(HeadStudyConfig)
    with exit_on_bad_input("studies.targets.head_study"), torch.no_grad():
        run(config)


if __name__ == "__main__":
    main()
