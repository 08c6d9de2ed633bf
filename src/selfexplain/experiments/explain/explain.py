"""Explain images with a trained run: class maps and the soft target of the model.

Shape suffixes: B images, C channels, H and W space, K classes.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfexplain.data import normalise
from selfexplain.data.images import Ranges
from selfexplain.errors import InputError, first_line
from selfexplain.experiments.data import image_files, read_images
from selfexplain.experiments.fit.given import load_given
from selfexplain.experiments.fit.model import build_of, with_auxiliary_head
from selfexplain.experiments.objectives import is_own_objective, resolve, split_spec
from selfexplain.experiments.reading_options import ExplainConfig, GivenModel
from selfexplain.experiments.run_dir import FinishedRun, load_weights, read_finished
from selfexplain.explanations import MapKind, class_maps
from selfexplain.introspection import Introspective
from selfexplain.introspection.options import names_now
from selfexplain.objectives import Objective
from selfexplain.objectives.options import CLASSES, ObjectiveOptions
from selfexplain.training.checkpoint import check_format, load_checkpoint, loading_from
from selfexplain.training.finetune import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_DRAWN = 100
"""Images of one picture."""
TOP = 5
"""Classes whose maps are drawn of a network that knows many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A finished run, ready to explain."""

    objective: Introspective
    class_names: tuple[str, ...]
    shape_CHW: tuple[int, int, int]
    mean_C: Tensor
    std_C: Tensor
    ranges: Ranges | None = None


def load_run(folder: Path, kind: MapKind = "cam", layer: str | None = None) -> TrainedRun:
    """Load a finished run, in evaluation mode, on the CPU.

    A run of another objective is given an introspective one of this kind and layer, so that any
    classifier's explanations can be read.

    Raises:
        InputError: the folder holds no finished run, or its files cannot be read.
    """
    run = read_finished(folder)
    config = run.config
    model = build_of(run)
    objective: Objective
    spec, options = config["objective"], _objective_options(config)
    # Code of the user's own is not asked for: the classifier is all that is explained.
    is_own = is_own_objective(split_spec(spec)[1])
    # A recorder's loop may have minimised what has a name of its own.
    is_own = is_own or (
        bool(config.get("recorder")) and spec.isidentifier() and spec not in CLASSES
    )
    name, values = (spec, {}) if is_own else resolve(spec, options)
    if name == "introspective":
        # The running class means are in the checkpoint alone.
        objective = Introspective(model, num_classes=run.num_classes, **values)
        whole = with_auxiliary_head(objective, config)
        path = folder / "checkpoint.pt"
        state = load_checkpoint(path)
        check_format(state, path)
        with loading_from(path):
            if config["training"].get("freeze") == ALL:
                # It may be of the head alone; the weights come from another file anyway.
                own = {k: v for k, v in state["objective"].items() if not k.startswith("model.")}
                whole.load_state_dict({**whole.state_dict(), **own})
            else:
                whole.load_state_dict(state["objective"])
    else:
        objective = Introspective(model, kind=kind, layer=layer, form="mixed")
    load_weights(model, run)
    return TrainedRun(
        objective=objective.eval(),
        class_names=run.class_names,
        shape_CHW=run.shape_CHW,
        mean_C=run.mean_C,
        std_C=run.std_C,
        ranges=run.ranges,
    )


def load_published(name: str, kind: MapKind = "cam", layer: str | None = None) -> TrainedRun:
    """A network with its published weights, in evaluation mode, on the CPU."""
    return explainable(*load_given(GivenModel(model=name, pretrained=True)), kind, layer)


def explainable(
    run: FinishedRun, model: nn.Module, kind: MapKind = "cam", layer: str | None = None
) -> TrainedRun:
    """A classifier that no run has trained, ready to explain."""
    return TrainedRun(
        objective=Introspective(model, kind=kind, layer=layer, form="mixed").eval(),
        class_names=run.class_names,
        shape_CHW=run.shape_CHW,
        mean_C=run.mean_C,
        std_C=run.std_C,
    )


def _objective_options(config: dict[str, Any]) -> ObjectiveOptions:
    """The options as they were when the run was made."""
    saved = config.get("options", {})
    plain = ObjectiveOptions()
    kinds = {field.name: type(getattr(plain, field.name)) for field in fields(plain)}
    try:
        return ObjectiveOptions(
            **{name: kind(**names_now(saved.get(name, {}))) for name, kind in kinds.items()}
        )
    except (InputError, TypeError) as error:
        raise InputError(
            f"the options in run.json are not those of this version ({first_line(error)}); put the "
            "file back as it was"
        ) from error


def explain_images(config: ExplainConfig) -> "Figure":
    """Read, classify and explain image files; return the drawn figure.

    Raises:
        InputError: no images are given, one cannot be read, or the run is not finished.
    """
    if not config.images:
        raise InputError("images is empty; pass at least one image file")
    kind = config.kind[0]
    if config.model is not None:
        run, top = explainable(*load_given(config), kind, config.layer), TOP
    else:
        run, top = load_run(config.run[0], kind, config.layer), None
    paths = image_files(config.images, most=MOST_DRAWN)
    images_BCHW = read_images(paths, run.shape_CHW, run.ranges)
    return explain_tensor(run, images_BCHW, kind=kind, layer=config.layer, top=top)


def explain_tensor(
    run: TrainedRun,
    images_BCHW: Tensor,
    *,
    kind: MapKind = "cam",
    layer: str | None = None,
    top: int | None = None,
) -> "Figure":
    """Explain uint8 images (B, C, H, W) for the class that the model predicts.

    Drawn are the maps of the `top` most probable classes; of the predicted class and its rivals in
    the soft target if that is None.
    """
    from selfexplain.report import explanation_figure, top_classes_figure

    x_BCHW = normalise(images_BCHW, run.mean_C, run.std_C)
    with torch.no_grad():
        p_BK = run.objective.model(x_BCHW).softmax(dim=1)
    predicted_B = p_BK.argmax(dim=1)
    confidences = p_BK.amax(dim=1).tolist()
    titles = [
        f"{run.class_names[k]} ({100 * p:.0f} %)"
        for k, p in zip(predicted_B.tolist(), confidences, strict=True)
    ]
    maps_BKHW = class_maps(run.objective.model, x_BCHW, kind=kind, layer=layer)
    target_BK = run.objective.soft_target(x_BCHW, predicted_B)
    pixels_BCHW = images_BCHW.float() / 255
    if top is not None:
        return top_classes_figure(pixels_BCHW, maps_BKHW, p_BK, target_BK, run.class_names, top=top)
    return explanation_figure(
        pixels_BCHW, maps_BKHW, target_BK, predicted_B, run.class_names, titles
    )
