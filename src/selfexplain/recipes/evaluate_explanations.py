"""Evaluate the explanations of finished runs, on the same images, and compare the runs.

The result is one JSON file: `rows` has mean, std and n of each run, kind of map and metric;
`stages` the rank correlations with randomised weights; `differences` those of every run to the
first, image by image. Shape suffixes: N images, C channels, H and W space.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.data import ImageData, normalise
from selfexplain.data.seeding import named_generator
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import paired_difference, predict
from selfexplain.recipes.environment import environment
from selfexplain.recipes.explain import TrainedRun, load_run
from selfexplain.recipes.explain_options import ExplainConfig
from selfexplain.recipes.explanation_scores import BETTER, CHUNK, map_scores
from selfexplain.recipes.finished import read_finished
from selfexplain.recipes.folder import saved_config
from selfexplain.recipes.launch import launch
from selfexplain.recipes.options import DataOptions, DeviceOptions, plain
from selfexplain.recipes.pointing import pointing_scores
from selfexplain.recipes.prepare import load, prepare
from selfexplain.training import TrainingOptions
from selfexplain.training.files import write_json

Values = dict[tuple[str, str], list[float]]
"""Per image, by (kind of map, metric)."""

StepCallback = Callable[[str, int, int], None]
"""Called as (run, kinds done, kinds in all)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredImages:
    """The drawn images (N, C, H, W) as uint8, their true classes, and their places in the split."""

    images_NCHW: Tensor
    labels_N: Tensor
    index_N: Tensor


def evaluate_explanations(
    config: ExplainConfig, on_step: StepCallback = lambda run, done, total: None
) -> dict[str, Any]:
    """Evaluate the maps of each image's true class by every run; write and return the results.

    Raises:
        InputError: a run is not finished, its data have changed, or runs score different images.
    """
    for folder in config.run:  # before anything that takes long
        read_finished(folder)
    options = config.quality
    device = launch(DeviceOptions(accelerator=options.accelerator), TrainingOptions()).device
    first: ScoredImages | None = None
    of_runs: list[Values] = []
    stages: list[dict[str, Any]] = []
    load_once = lru_cache(maxsize=1)(load)  # runs that can be compared have the same data
    for folder in config.run:
        run = load_run(folder, config.kind[0], config.layer)
        images = scored_images(folder, run, options.count, options.seed, load_once)
        first = images if first is None else first
        _check_same(images, first, folder, config.run[0])
        values, of_stages = _evaluate(config, folder, run, images, device, on_step)
        of_runs.append(values)
        stages += of_stages
    assert first is not None, "the configuration names at least one run"
    results = {
        "schema": 1,
        "config": plain(config, leave_out=("out", "images", "evaluate")),
        "environment": environment(device),
        "images": {"class": "true", "index": first.index_N.tolist()},
        "rows": [
            row
            for folder, values in zip(config.run, of_runs, strict=True)
            for row in _rows(folder, values, keep=options.values)
        ],
        "stages": stages,
        "differences": [
            row
            for folder, values in zip(config.run[1:], of_runs[1:], strict=True)
            for row in _differences(folder, values, of_runs[0])
        ],
    }
    write_json(config.results_file, results)
    return results


def scored_images(
    folder: Path,
    run: TrainedRun,
    count: int,
    seed: int,
    load_data: Callable[[DataOptions], ImageData] = load,
) -> ScoredImages:
    """Draw images of the split that a run was scored on, read from its own data.

    Args:
        folder: of the run.
        run: what `load_run` made of it.
        count: how many; all if there are fewer.
        seed: of the draw; equal splits give equal images.
        load_data: loads the data set.

    Raises:
        InputError: the data are not there, or are not those of the run.
    """
    saved = saved_config(folder / "run.json")
    try:
        options = DataOptions(**saved["data"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'run.json'} is damaged: its data are no options of this version "
            f"({first_line(error)}); put the file back as it was"
        ) from error
    data = load_data(options)
    if (data.class_names, data.shape_CHW) != (run.class_names, run.shape_CHW):
        raise InputError(
            f"{options.data} no longer has the classes and image size that {folder} was trained "
            "on; put the data of the run back"
        )
    scored = prepare(data, options, saved["seed"]).scored
    order_N = torch.randperm(len(scored), generator=named_generator("evaluated images", seed))
    index_N = order_N[:count].sort().values
    return ScoredImages(
        images_NCHW=scored.read(index_N).cpu(), labels_N=scored.labels_N[index_N], index_N=index_N
    )


def _check_same(images: ScoredImages, first: ScoredImages, folder: Path, other: Path) -> None:
    """Raise InputError unless two runs meet the same images."""
    same = torch.equal(images.labels_N, first.labels_N)
    if not (same and torch.equal(images.images_NCHW, first.images_NCHW)):
        raise InputError(
            f"{folder} and {other} are scored on different images; pass runs of the same data, "
            "image size and held-out part"
        )


def _evaluate(
    config: ExplainConfig,
    folder: Path,
    run: TrainedRun,
    images: ScoredImages,
    device: torch.device,
    on_step: StepCallback,
) -> tuple[Values, list[dict[str, Any]]]:
    """Per-image values of one run, and its rows of stages."""
    model = run.objective.model.to(device)
    x_NCHW = normalise(images.images_NCHW, run.mean_C, run.std_C).to(device)
    y_N = images.labels_N.to(device)
    values, stages = _of_model(model, x_NCHW, y_N), []
    for done, kind in enumerate(config.kind, start=1):
        pointing = {}  # first: a misspelt table is refused before minutes of work
        if config.quality.boxes is not None:
            pointing["pointing"] = pointing_scores(
                model, run, config.quality.boxes, kind, config.layer, config.quality.tolerance
            )
        scores, correlations = map_scores(
            model, x_NCHW, y_N, kind=kind, layer=config.layer, options=config.quality
        )
        values |= {(kind, name): value_N.tolist() for name, value_N in (scores | pointing).items()}
        stages += [
            {"run": str(folder), "kind": kind, "stage": stage, **_summary(rho_N.tolist())}
            for stage, rho_N in correlations.items()
        ]
        on_step(str(folder), done, len(config.kind))
    return values, stages


def _of_model(model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Values:
    """Probability of the true class and correctness: what areas under p(class) start from."""
    batches = zip(torch.split(x_NCHW, CHUNK), torch.split(y_N, CHUNK), strict=True)
    logits_NK, y_N = predict(model, batches)
    p_N = logits_NK.softmax(dim=1).gather(1, y_N[:, None])[:, 0]
    right_N = (logits_NK.argmax(dim=1) == y_N).float()
    return {("", "probability"): p_N.tolist(), ("", "accuracy"): right_N.tolist()}


def _rows(folder: Path, values: Values, *, keep: bool) -> list[dict[str, Any]]:
    return [
        {
            "run": str(folder),
            "kind": kind,
            "metric": metric,
            "better": BETTER[metric],
            **_summary(numbers),
            **({"values": numbers} if keep else {}),
        }
        for (kind, metric), numbers in values.items()
    ]


def _summary(numbers: list[float]) -> dict[str, Any]:
    """Mean, the sample's standard deviation (None for one image), and n."""
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "std": std, "n": len(numbers)}


def _differences(folder: Path, values: Values, baseline: Values) -> list[dict[str, Any]]:
    """Run less the first run, image by image, with the 95 % interval of Student's t."""
    rows = []
    for (kind, metric), numbers in values.items():
        difference = paired_difference(numbers, baseline[kind, metric])
        rows.append(
            {
                "run": str(folder),
                "kind": kind,
                "metric": metric,
                "mean": difference.mean,
                "ci95": difference.ci95,
                "n": len(numbers),
            }
        )
    return rows
