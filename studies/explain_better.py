"""Do better architectures explain better? The premise of LeaSE, before anything is tuned on it.

    python -m studies.explain_better --data parquet:data/cifar100 --image-size 16 \
        --table data/nasbench201.parquet --out results/premise

Cells of NAS-Bench-201 from all strata of the table are each trained alone, and then explain images
that they did not learn from (level II of LeaSE). Fresh small audiences learn from these images and
their explanations (level III), and are scored on test images. If better cells explain better, the
audience's accuracy goes with the cell's in the table, *also* among cells of equal validation
accuracy, FLOPs and skip connections: that partial correlation is the verdict. It has to be .3 or
more, and above that of every arm that explains nothing of the cell:

    explanation   images, and x (*) delta of the trained cell
    shuffled      the same with each explanation's pixels shuffled
    noise         blurred noise of the explanation's size
    untrained     x (*) delta of the cell with the weights it started from
    hard_labels   images alone, with the classes that the cell predicts in place of the labels

`cells.jsonl` has a line for each finished cell; the same command continues.

Shape suffixes: N images, B batch, C channels, H and W space, K classes, M cells.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import torch.nn.functional as F
import tyro
from studies.json_log import JSONLog
from torch import Tensor, nn

from selfexplain.data import normalise
from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.evaluation import evaluating
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DataOptions, to_dict
from selfexplain.experiments.run_dir import environment
from selfexplain.files import write_json
from selfexplain.hypergradients import as_function, take_steps
from selfexplain.lease import LeaSEOptions
from selfexplain.lease.lease import bounded, explain_by_attack, shown_to_audience
from selfexplain.lease.search import explainer
from selfexplain.models import build_model
from selfexplain.spaces import build_network, from_string
from selfexplain.spaces.table import BenchmarkTable, MeasuredCell, load_table

Task = TypeVar("Task")
Found = TypeVar("Found")

BATCH = 100
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
GO = 0.3
"""Partial correlation from which on the premise counts as true."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PremiseConfig:
    """Ask whether better cells explain better."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    table: str
    """The benchmark, as for lookup."""
    out: Path
    """Folder for cells.jsonl, verdict.json and verdict.md."""
    strata: int = 6
    """Strata of equal size into which the table's cells are parted by accuracy."""
    per_stratum: int = 10
    """Cells that are drawn from each."""
    init_channels: int = 8
    """Channels of the first stage of a cell's network."""
    cells: int = 1
    """Cells of each stage."""
    learn: int = 5000
    """Images that a cell learns from."""
    explain: int = 5000
    """Other images, which it explains to the audience."""
    held_out: int = 2000
    """Further images, on which the trained cell is scored."""
    test: int = 4000
    """Test images on which audiences are scored."""
    epochs: int = 10
    """Epochs of a cell."""
    audience_epochs: int = 10
    """Epochs of an audience."""
    audience_seeds: int = 3
    """Audiences of each cell and arm."""
    seed: int = 0
    """Seed of the cells, the images and all weights."""
    device: str = "cpu"
    """Where everything is computed."""
    workers: int = 1
    """Processes that examine cells side by side, of one thread each."""


@dataclass(frozen=True, slots=True)
class Part:
    """Normalised images x (N, C, H, W) and labels y (N,)."""

    x_NCHW: Tensor
    y_N: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The images of the study, and how they were normalised."""

    learn: Part
    explain: Part
    validation: Part
    test: Part
    std_C: Tensor
    num_classes: int


def read_parts(
    options: DataOptions, sizes: tuple[int, int, int], test: int, seed: int, device: str
) -> Parts:
    """Draw the parts: none of the training images is in two of them.

    Args:
        options: of the data.
        sizes: training images to learn from, to explain and to validate on.
        test: test images.
        seed: of the draw.
        device: where they are wanted.

    Raises:
        InputError: there are not enough images.
    """
    data = load(options)
    prepared = prepare(data, options, seed)
    for what, there, wanted in (
        ("training", len(prepared.train), sum(sizes)),
        ("test", len(prepared.scored), test),
    ):
        if there < wanted:
            raise InputError(
                f"there are {there} {what} images and {wanted} are wanted; pass smaller "
                "--learn, --explain, --held-out or --test"
            )
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(prepared.train), generator=generator)
    drawn = order_N[: sum(sizes)].split(sizes)
    held = torch.randperm(len(prepared.scored), generator=generator)[:test]

    def part(images: Any, index_N: Tensor) -> Part:
        x_NCHW = normalise(images.read(index_N), prepared.mean_C, prepared.std_C)
        return Part(x_NCHW.to(device), images.labels_N[index_N].to(device))

    learn, explain, validation = (part(prepared.train, index_N) for index_N in drawn)
    return Parts(
        learn=learn,
        explain=explain,
        validation=validation,
        test=part(prepared.scored, held),
        std_C=prepared.std_C.to(device),
        num_classes=data.num_classes,
    )


def draw_cells(table: BenchmarkTable, strata: int, each: int, seed: int) -> list[MeasuredCell]:
    """Cells from strata of equal size by test accuracy, from the worst stratum to the best."""
    ordered = sorted(table.cells.values(), key=lambda cell: (cell.test, cell.arch))
    if len(ordered) < strata * each:
        raise InputError(f"the table has {len(ordered)} cells; pass fewer strata or cells of each")
    generator = torch.Generator().manual_seed(seed)
    drawn: list[MeasuredCell] = []
    for number in range(strata):
        low, high = (len(ordered) * edge // strata for edge in (number, number + 1))
        order = torch.randperm(high - low, generator=generator)[:each].tolist()
        drawn += [ordered[low + place] for place in order]
    return drawn


# Training, alike for cells and audiences.


def fit(
    model: nn.Module, losses: Callable[[Tensor], Tensor], count: int, epochs: int, seed: int
) -> None:
    """SGD with a cosine on losses of batches, which are given as places (B,) among `count`."""
    model.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for index_B in torch.randperm(count, generator=generator).split(BATCH)[: count // BATCH]:
            optimizer.zero_grad()
            losses(index_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def accuracy(model: nn.Module, part: Part) -> float:
    """Top-1 accuracy in per cent, in evaluation mode."""
    predicted_N = classes_of(model, part.x_NCHW)
    return 100 * float((predicted_N == part.y_N).double().mean())


def classes_of(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Predicted classes (N,), in evaluation mode."""
    with evaluating(model), torch.no_grad():
        return torch.cat([model(x_BCHW).argmax(1) for x_BCHW in x_NCHW.split(500)])


# What an audience is shown.


def shown_by(
    network: nn.Module, part: Part, std_C: Tensor, options: LeaSEOptions, seed: int
) -> Tensor:
    """What a network shows, x (*) delta (N, C, H, W), in evaluation mode; it stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    with evaluating(network):
        f = explainer(lambda weights, x, _: as_function(network)(weights, x))
        weights = {name: p.detach() for name, p in network.named_parameters()}
        for x_BCHW, y_B in zip(part.x_NCHW.split(500), part.y_N.split(500), strict=True):
            explaining = explain_by_attack(f, x_BCHW, y_B, std_C, options, generator)
            variables = {"explainer": weights, "architecture": torch.zeros(0)} | explaining.start
            variables |= take_steps(explaining.levels, variables)[2]
            with torch.no_grad():
                found.append(explaining.shown(variables))
    return torch.cat(found)


def blurred_noise(part: Part, options: LeaSEOptions, seed: int) -> Tensor:
    """What is shown where delta is noise of a step's size, blurred over 3 x 3 pixels."""
    generator = torch.Generator().manual_seed(seed)
    noise_NCHW = torch.randn(part.x_NCHW.shape, generator=generator).to(part.x_NCHW)
    blurred_NCHW = F.avg_pool2d(noise_NCHW, 3, 1, padding=1)
    rms_N111 = blurred_NCHW.square().mean((1, 2, 3), keepdim=True).sqrt()
    delta_NCHW = bounded(options.step_size * blurred_NCHW / rms_N111, options.eps)
    return shown_to_audience(part.x_NCHW, delta_NCHW, options.eps, options.shown)


def audience_accuracies(
    config: PremiseConfig, parts: Parts, shown_NCHW: Tensor | None, labels_N: Tensor
) -> list[float]:
    """Test accuracy in per cent of audiences that learned from images and what is shown, by seed.

    Args:
        config: of the study.
        parts: its images; the audiences learn from `explain`.
        shown_NCHW: what is shown besides; None for images alone.
        labels_N: their labels.
    """
    x_NCHW, found = parts.explain.x_NCHW, []
    for seed in range(config.audience_seeds):
        torch.manual_seed(1000 * config.seed + seed)
        audience = build_model(
            "small_cnn", num_classes=parts.num_classes, in_channels=x_NCHW.shape[1]
        ).to(config.device, memory_format=torch.channels_last)  # the faster layout on a CPU

        def losses(index_B: Tensor, audience: nn.Module = audience) -> Tensor:
            y_B = labels_N[index_B]
            loss = F.cross_entropy(audience(x_NCHW[index_B]), y_B)
            if shown_NCHW is None:
                return loss
            return loss + F.cross_entropy(audience(shown_NCHW[index_B]), y_B)

        fit(audience, losses, len(x_NCHW), config.audience_epochs, seed)
        found.append(accuracy(audience, parts.test))
    return found


def examine(
    config: PremiseConfig, parts: Parts, numbered: tuple[int, MeasuredCell]
) -> dict[str, Any]:
    """Train a cell, let it explain, and score the audiences of every arm."""
    number, cell = numbered
    torch.manual_seed(config.seed)
    side = parts.learn.x_NCHW.shape[-1]
    network = build_network(
        from_string(cell.arch),
        num_classes=parts.num_classes,
        in_channels=parts.learn.x_NCHW.shape[1],
        image_size=side,
        channels=config.init_channels,
        cells=config.cells,
    ).to(config.device, memory_format=torch.channels_last)
    untrained = copy.deepcopy(network)
    x_NCHW, y_N = parts.learn.x_NCHW, parts.learn.y_N

    def losses(index_B: Tensor) -> Tensor:
        return F.cross_entropy(network(x_NCHW[index_B]), y_N[index_B])

    fit(network, losses, len(x_NCHW), config.epochs, config.seed)
    options, explain = LeaSEOptions(), parts.explain
    shuffled = LeaSEOptions(control="shuffled_delta")
    shown = {
        "explanation": shown_by(network, explain, parts.std_C, options, number),
        "shuffled": shown_by(network, explain, parts.std_C, shuffled, number),
        "noise": blurred_noise(explain, options, number),
        "untrained": shown_by(untrained, explain, parts.std_C, options, number),
    }
    arms = {
        name: audience_accuracies(config, parts, shown_NCHW, explain.y_N)
        for name, shown_NCHW in shown.items()
    }
    predicted_N = classes_of(network, explain.x_NCHW)
    arms["hard_labels"] = audience_accuracies(config, parts, None, predicted_N)
    return {
        "arch": cell.arch,
        "table": cell.test,
        "validation": accuracy(network, parts.validation),
        "log_flops": math.log(cell.flops_m),
        "skips": cell.arch.count("skip_connect"),
        "arms": arms,
    }


# The verdict.


def partial_correlation(
    a_M: Sequence[float], b_M: Sequence[float], given: Sequence[Sequence[float]] = ()
) -> tuple[float, tuple[float, float]]:
    """Pearson's correlation of what is left of a and b after least squares on the given columns.

    Returns:
        The correlation, and its 95 % interval by Fisher's z with M - 3 - len(given) degrees.

    Example:
        >>> size = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        >>> a = [s + e for s, e in zip(size, [0.1, -0.2, 0.3, -0.1, 0.2, -0.3])]
        >>> b = [s - e for s, e in zip(size, [0.1, -0.2, 0.3, -0.1, 0.2, -0.3])]
        >>> partial_correlation(a, b)[0] > 0.9, partial_correlation(a, b, [size])[0] < -0.9
        (True, True)
    """
    columns = [[1.0] * len(a_M), *given]
    design_MG = torch.tensor(columns, dtype=torch.float64).T
    targets_M2 = torch.tensor([list(a_M), list(b_M)], dtype=torch.float64).T
    left_M2 = targets_M2 - design_MG @ torch.linalg.lstsq(design_MG, targets_M2).solution
    r = float(torch.cosine_similarity(left_M2[:, 0], left_M2[:, 1], dim=0))
    degrees = len(a_M) - 3 - len(given)
    if degrees < 1:
        raise InputError(
            f"{len(a_M)} cells are too few for {len(given)} given columns; wait for more"
        )
    z, half = math.atanh(max(-0.999999, min(0.999999, r))), 1.959964 / degrees**0.5
    return r, (math.tanh(z - half), math.tanh(z + half))


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Correlation and partial correlation of every arm with the table, and go or stop."""
    table_M = [row["table"] for row in rows]
    given = [[row[name] for row in rows] for name in ("validation", "log_flops", "skips")]
    arms: dict[str, Any] = {}
    for arm in rows[0]["arms"]:
        heard_M = [sum(row["arms"][arm]) / len(row["arms"][arm]) for row in rows]
        plain, plain_ci95 = partial_correlation(heard_M, table_M)
        partial, partial_ci95 = partial_correlation(heard_M, table_M, given)
        arms[arm] = {
            "accuracy": sum(heard_M) / len(heard_M),
            "correlation": plain,
            "correlation_ci95": plain_ci95,
            "partial_correlation": partial,
            "partial_correlation_ci95": partial_ci95,
        }
    own = arms["explanation"]["partial_correlation"]
    others = [arm["partial_correlation"] for name, arm in arms.items() if name != "explanation"]
    return {
        "cells": len(rows),
        "validation_with_table": partial_correlation(given[0], table_M)[0],
        "arms": arms,
        "go": own >= GO and own > max(others),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The verdict as a table and a sentence."""
    lines = [
        "| audience learns from images and | accuracy % | correlation with the table "
        "| partial correlation |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, arm in found["arms"].items():
        cells = [
            f"{arm[key]:+.2f} [{arm[f'{key}_ci95'][0]:+.2f}, {arm[f'{key}_ci95'][1]:+.2f}]"
            for key in ("correlation", "partial_correlation")
        ]
        lines.append(f"| {name} | {arm['accuracy']:.2f} | {cells[0]} | {cells[1]} |")
    decision = "**Go**" if found["go"] else "**Stop**"
    own = found["arms"]["explanation"]["partial_correlation"]
    return (
        "\n".join(lines)
        + f"\n\n{found['cells']} cells; 95 % intervals. The cells' own validation accuracy "
        f"correlates with the table by {found['validation_with_table']:+.2f}; partial correlations "
        "are given that accuracy, log FLOPs and the number of skip connections. "
        f"{decision}: the explanation's is {own:+.2f}, and {GO} and more than every other arm's is "
        "asked for.\n"
    )


def run_study(config: PremiseConfig, table: BenchmarkTable) -> dict[str, Any]:
    """Examine all cells, continuing what was begun; the verdict."""
    config.out.mkdir(parents=True, exist_ok=True)
    log = JSONLog(config.out / "cells.jsonl")
    sizes = (config.learn, config.explain, config.held_out)
    parts = read_parts(config.data, sizes, config.test, config.seed, config.device)
    cells = draw_cells(table, config.strata, config.per_stratum, config.seed)
    # From all strata in turn, so that what was finished when it is stopped speaks of all.
    order = sorted(range(len(cells)), key=lambda i: (i % config.per_stratum, i))
    numbered = [(i, cells[i]) for i in order if log.find({"arch": cells[i].arch}) is None]
    for row in side_by_side(partial(examine, config, parts), numbered, config.workers):
        log.add(row)
    found = [log.find({"arch": cells[i].arch}) for i in order]
    return verdict([row for row in found if row is not None])


def side_by_side(
    function: Callable[[Task], Found], tasks: Sequence[Task], workers: int
) -> Iterator[Found]:
    """What a function makes of each task, as each is done, in so many processes of one thread."""
    if workers == 1:
        yield from map(function, tasks)
        return
    spawned = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(function, task) for task in tasks]):
            yield done.result()


def main() -> None:
    """Run the study of a command line and write its verdict."""
    config = tyro.cli(PremiseConfig, config=(tyro.conf.HelptextFromCommentsOff,))
    with exit_on_bad_input("studies.explain_better"):
        found = run_study(config, load_table(config.table))
        about = {
            "schema": 1,
            "config": to_dict(config, leave_out=("out", "workers"))
            | {"table": Path(config.table).name},
            "environment": environment(torch.device(config.device)),
        }
        write_json(config.out / "verdict.json", {**about, **found})
        (config.out / "verdict.md").write_text(markdown(found))
        print(markdown(found))


if __name__ == "__main__":
    main()
