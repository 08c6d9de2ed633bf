"""Evaluate the explanations of finished runs, on the same images, and compare the runs.

The result is one JSON file: `rows` has mean, std and n of each run, kind of map and metric;
`stages` the rank correlations with randomised weights; `differences` those of every run to the
first, image by image. Shape suffixes: N images, B of a chunk, C channels,
H and W space.
"""

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.data import ImageData, ImageSet, normalise
from selfexplain.data.decode import header_size
from selfexplain.data.opening import lies_below, open_image
from selfexplain.errors import InputError, first_line
from selfexplain.evaluation import evaluating, paired_difference, predict
from selfexplain.experiments.data import OWN_IMAGES, load, prepare, read_images
from selfexplain.experiments.explain.explain import TrainedRun, load_run
from selfexplain.experiments.explain.scores import BETTER, CHUNK, map_scores, size_of
from selfexplain.experiments.options import DataOptions, DeviceOptions, to_dict
from selfexplain.experiments.reading_options import ExplainConfig
from selfexplain.experiments.run_dir import environment, read_finished, saved_config
from selfexplain.experiments.runtime import launch
from selfexplain.explanations import MapKind, find_explained_layer
from selfexplain.explanations.metrics import maps_of_classes, pointing_hits, upsampled
from selfexplain.files import write_json
from selfexplain.seeding import named_generator
from selfexplain.training import TrainingOptions

# Boxes of objects in image files, for the pointing game.
#
# The file is a CSV table with the header `image,x_min,y_min,x_max,y_max` and, if wanted, `class`:
# one row a box; image paths are relative to the file and stay below its folder; pixels of the
# upright image, measured to its edges; the class by its name, or empty for the class that the
# model predicts.


COLUMNS = ("image", "x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxedImage:
    """An image file, the boxes (n, 4) of the objects of one class in it, and that class."""

    path: Path
    boxes: Tensor
    label: int | None = None


def read_boxes(path: Path, class_names: Sequence[str]) -> list[BoxedImage]:
    """Read a table of boxes; those of one image and class belong together."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); pass a CSV file of boxes") from error
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise InputError(
            f"{path} is not a table of boxes; pass a CSV file with the header {','.join(COLUMNS)} "
            "and one row a box"
        )
    found: dict[tuple[Path, int | None], list[list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            key = _own_image(path.parent, row["image"]), _label(row.get("class"), class_names)
            found.setdefault(key, []).append(_box(row))
        except TypeError as error:
            raise InputError(f"{path}, line {number} is too short; fill every column") from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return [
        BoxedImage(path=image, boxes=torch.tensor(boxes), label=label)
        for (image, label), boxes in found.items()
    ]


def boxes_in_model(image: BoxedImage, shape_CHW: tuple[int, int, int]) -> Tensor:
    """Boxes (n, 4), n >= 0, in the pixels of the model's image, cut from the middle and resized.

    Images of a model whose images are not square keep their size, and boxes theirs. Parts outside
    are cut off, and boxes wholly outside left out.
    """
    _, height, width = shape_CHW
    scale, left, top = 1.0, 0.0, 0.0
    if height == width:
        with open_image(image.path) as opened:
            size_HW = header_size(opened)
        scale = height / min(size_HW)
        left, top = (size_HW[1] - min(size_HW)) / 2, (size_HW[0] - min(size_HW)) / 2
    offset = torch.tensor([left, top, left, top])
    limit = torch.tensor([width, height, width, height])
    boxes = ((image.boxes - offset) * scale).clamp(min=0).minimum(limit)
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def _own_image(folder: Path, name: str) -> Path:
    """An image that a table names: a table may come from a stranger, and stays with its images."""
    image = folder / name
    if not lies_below(image, [folder]):
        raise ValueError(
            f"the image {name!r} does not lie in {folder}, the folder of the table; put both into "
            "one folder"
        )
    return image


def _label(name: str | None, class_names: Sequence[str]) -> int | None:
    if not name:
        return None
    if name not in class_names:
        known = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        raise ValueError(f"there is no class {name!r}; pass one of {known}, or leave it empty")
    return class_names.index(name)


def _box(row: dict[str, str]) -> list[float]:
    box = [float(row[column]) for column in COLUMNS[1:]]
    if not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"{box} is not a box; pass numbers with x_min < x_max and y_min < y_max")
    return box


# The pointing game of a run, on image files with boxes.


def pointing_scores(
    model: nn.Module,
    run: TrainedRun,
    boxes_file: Path,
    kind: MapKind,
    layer: str | None,
    tolerance: float,
) -> Tensor:
    """1 for each hit and 0 for each miss, (N,), one for each image and class of the table.

    The map is that of the class in the table, or of the predicted one where it names none. Images
    none of whose boxes is left in the model's cut of them are left out.
    """
    cases = read_boxes(boxes_file, run.class_names)
    pixels_NCHW = read_images([case.path for case in cases], run.shape_CHW, run.ranges)
    boxes = [boxes_in_model(case, run.shape_CHW) for case in cases]
    kept = [i for i, box in enumerate(boxes) if len(box)]
    if not kept:
        raise InputError(
            f"no box of {boxes_file} is left in the middle square that the model sees; pass boxes "
            "that are"
        )
    device = next(model.parameters()).device
    x_NCHW = normalise(pixels_NCHW[kept], run.mean_C, run.std_C).to(device)
    classes_N = _classes(model, x_NCHW, [cases[i].label for i in kept])
    found = find_explained_layer(model, x_NCHW, kind=kind, layer=layer)
    maps = [
        upsampled(maps_of_classes(model, x, y, kind=kind, layer=found), size_of(x))
        for x, y in zip(torch.split(x_NCHW, CHUNK), torch.split(classes_N, CHUNK), strict=True)
    ]
    return pointing_hits(
        torch.cat(maps).cpu(), [boxes[i] for i in kept], tolerance=tolerance
    ).float()


def _classes(model: nn.Module, x_NCHW: Tensor, labels: list[int | None]) -> Tensor:
    """The classes that the table names, and the predicted ones where it names none."""
    with evaluating(model), torch.no_grad():
        predicted_N = torch.cat([model(x).argmax(1).cpu() for x in torch.split(x_NCHW, CHUNK)])
    pairs = zip(labels, predicted_N.tolist(), strict=True)
    return torch.tensor([k if named is None else named for named, k in pairs])


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
        "config": to_dict(config, leave_out=("out", "images", "evaluate")),
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
    """Draw `count` images, or all if there are fewer, of the split that a run was scored on.

    They are read from the run's own data; equal seeds and splits give equal images.
    """
    scored = scored_set(folder, run.class_names, run.shape_CHW, load_data)
    order_N = torch.randperm(len(scored), generator=named_generator("evaluated images", seed))
    index_N = order_N[:count].sort().values
    return ScoredImages(
        images_NCHW=scored.read(index_N).cpu(), labels_N=scored.labels_N[index_N], index_N=index_N
    )


def scored_set(
    folder: Path,
    class_names: tuple[str, ...],
    shape_CHW: tuple[int, int, int],
    load_data: Callable[[DataOptions], ImageData] = load,
) -> ImageSet:
    """The images that a run was scored on, from the run's own data, in their order.

    Args:
        folder: of the run.
        class_names: that it was trained on.
        shape_CHW: of the images that it was trained on.
        load_data: how the data are loaded.

    Raises:
        InputError: the images were not kept, or the data have changed.
    """
    saved = saved_config(folder / "run.json")
    if saved.get("recorder") and saved["data"].get("data") == OWN_IMAGES:
        raise InputError(
            f"the images that {folder} was scored on are not kept: they were given as images; "
            "record it with the name of a data set, such as data='folder:pets', to evaluate its "
            "maps"
        )
    try:
        options = DataOptions(**saved["data"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'run.json'} is damaged: its data are no options of this version "
            f"({first_line(error)}); put the file back as it was"
        ) from error
    data = load_data(options)
    if (data.class_names, data.shape_CHW) != (class_names, shape_CHW):
        raise InputError(
            f"{options.data} no longer has the classes and image size that {folder} was trained "
            "on; put the data of the run back"
        )
    # Statistics, which would take reading all training images, have no part in the split.
    unused = (torch.zeros(shape_CHW[0]), torch.ones(shape_CHW[0]))
    return prepare(data, options, saved["seed"], statistics=unused).scored


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
