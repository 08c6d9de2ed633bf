"""The pointing game of a run, on image files with boxes.

Shape suffixes: N images, B of a chunk, C channels, H and W space.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from selfexplain.data import normalise
from selfexplain.errors import InputError
from selfexplain.evaluation import evaluating
from selfexplain.explanations import MapKind, find_explained_layer
from selfexplain.explanations.quality import maps_of_classes, pointing_hits, upsampled
from selfexplain.recipes.boxes import boxes_in_model, read_boxes
from selfexplain.recipes.explain import TrainedRun, read_images
from selfexplain.recipes.explanation_scores import CHUNK, size_of


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

    Raises:
        InputError: the table or an image cannot be read, or no box is left.
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
