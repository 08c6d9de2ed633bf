"""What a finished run says of one image: everything that the page shows, as numbers.

Shape suffixes: C channels, H and W space, K classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from selfexplain.data import normalise
from selfexplain.data.images import Ranges, is_deep, to_array
from selfexplain.data.opening import MAX_PIXELS, NAMES, open_image
from selfexplain.errors import InputError
from selfexplain.experiments.explain.explain import explainable, load_run
from selfexplain.experiments.fit.given import load_given
from selfexplain.experiments.read_records import read_result
from selfexplain.experiments.reading_options import GivenModel
from selfexplain.experiments.run_dir import read_finished
from selfexplain.explanations import (
    KINDS,
    MapKind,
    class_maps,
    explainable_layers,
    find_explained_layer,
)
from selfexplain.introspection import Introspective, similarity_to_true
from selfexplain.objectives.options import parts_of
from selfexplain.records import printable

# Image files from strangers: bytes become pixels of a model's shape, or one clear sentence.
#
# Nothing is decoded before its header was checked.


MAX_BYTES = 10_000_000
"""Largest file that is looked at, in bytes."""


def open_upload(content: bytes) -> Image.Image:
    """Check the bytes of an image file, and decode it: of an animation, its first frame.

    Raises:
        InputError: the file is empty, too large, of no format that is read, declares too many
            pixels, or is damaged.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (9, 5)).save(file, "PNG")
        >>> open_upload(file.getvalue()).size
        (9, 5)
    """
    if len(content) > MAX_BYTES:
        raise InputError(
            f"the file has {len(content) / 1e6:.1f} MB; pass one of at most {MAX_BYTES / 1e6:g} MB"
        )
    with _one_sentence():
        image = open_image(content)
        if is_deep(image):
            to_array(image, 1)  # which decodes it, and leaves the image as it is
        else:
            image.load()
    return image


def to_shape(
    image: Image.Image, shape_CHW: tuple[int, int, int], ranges: Ranges | None = None
) -> Tensor:
    """An image as uint8 (C, H, W), upright, brought to the shape that a model was trained on.

    A square is cut from the middle and resized, as in training on images of many sizes; where the
    model's images are not square, the image must have their size.

    Args:
        image: as `open_upload` returns it.
        shape_CHW: of the images that the model was trained on.
        ranges: what their values were scaled by if they had more than 8 bits; None takes what the
            image calls for.

    Raises:
        InputError: the image cannot be converted, or has not the size that is needed.

    Example:
        >>> to_shape(Image.new("CMYK", (90, 50)), (1, 8, 8)).shape
        torch.Size([1, 8, 8])
    """
    channels, height, width = shape_CHW
    with _one_sentence():
        array = to_array(image, channels, height if height == width else None, ranges)
    if array.shape != shape_CHW:
        raise InputError(
            f"the image is {array.shape[1]} x {array.shape[2]} pixels (height x width), and this "
            f"model takes {height} x {width}; pass an image of that size"
        )
    return torch.from_numpy(array.copy())


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn whatever Pillow raises into one sentence that reveals nothing about this machine."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"the file is not an image in a supported format, whatever its name; pass a {NAMES} "
            "file"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"the image declares far too many pixels; pass one of at most {MAX_PIXELS / 1e6:g} "
            "million pixels"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise InputError(
            "the image is damaged or truncated and cannot be decoded; pass a complete file"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One image as one model sees it; the class that is explained is the predicted one.

    Example:
        >>> Explanation(
        ...     class_names=("cat", "dog"), image_CHW=torch.zeros(1, 8, 8, dtype=torch.uint8),
        ...     probability_K=torch.tensor([0.9, 0.1]), maps_KHW=torch.zeros(2, 4, 4),
        ...     similarity_K=torch.tensor([1.0, 0.2]), target_K=torch.tensor([0.0, 1.0]),
        ...     measure="cosine", own=False).predicted
        0
    """

    class_names: tuple[str, ...]
    image_CHW: Tensor
    """uint8, as the model is given it."""
    probability_K: Tensor
    maps_KHW: Tensor
    """Signed class maps at their layer's resolution."""
    similarity_K: Tensor
    """Of every class's explanation to the predicted one's; in the units of the measure."""
    target_K: Tensor
    """The soft target if the predicted class were the true one; 0 there."""
    measure: str
    """How explanations were compared."""
    own: bool
    """Whether the run was trained with targets from this very kind of map and layer."""
    fixed: bool = False
    """Whether the target's values are the same for every image, as those of ranks are."""

    @property
    def predicted(self) -> int:
        """The class of the greatest probability."""
        return int(self.probability_K.argmax())


class Explainer:
    """A trained model that explains one image at a time, to any number of threads.

    Args:
        run: folder of a finished run, or a model that is given without one.

    Raises:
        InputError: the folder holds no finished run, or its files cannot be read; or the model
            cannot be loaded.

    Example:
        >>> Explainer(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: absent contains no finished run; pass a folder with ...
    """

    def __init__(self, run: Path | GivenModel) -> None:
        self.folder = run if isinstance(run, Path) else None
        self.facts: tuple[str, ...] = ()
        if isinstance(run, Path):
            self.name = run.resolve().name
            config = read_finished(run).config
            self.spec = str(config["objective"])
            self.facts = tuple(_facts(run, config))
            self._run = load_run(run)
        else:
            self.name, self.spec = str(run.model), "given weights"
            self._run = explainable(*load_given(run))
        self._introspective = parts_of(self.spec)[-1].partition(":")[0] == "introspective"
        # class_maps hangs hooks into the model, so one thread at a time may explain.
        self._lock = RLock()
        self._objectives: dict[tuple[MapKind, str | None], Introspective] = {}
        self._layers: dict[MapKind, tuple[str, ...]] = {}
        generator = torch.Generator().manual_seed(0)
        self._probe_BCHW = torch.randn(2, *self.shape_CHW, generator=generator)
        self.kinds = tuple(kind for kind in KINDS if self._has(kind))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self._run.class_names

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Of the images that the model takes."""
        return self._run.shape_CHW

    @property
    def ranges(self) -> Ranges | None:
        """How values of images of more than 8 bits are scaled."""
        return self._run.ranges

    @property
    def own(self) -> tuple[MapKind, str | None]:
        """Kind of map and layer that the run was trained with; for other objectives the default."""
        options = self._run.objective.options
        return (
            (options.kind, options.layer) if options.kind in self.kinds else (self.kinds[0], None)
        )

    def layers(self, kind: MapKind) -> tuple[str, ...]:
        """Names of the layers that can be explained by this kind of map, other than its default.

        Raises:
            InputError: the model has no maps of this kind.
        """
        with self._lock:
            if kind not in self._layers:
                self._layers[kind] = explainable_layers(
                    self._run.objective.model, self._probe_BCHW, kind
                )
            return self._layers[kind]

    def explain(self, image_CHW: Tensor, kind: MapKind, layer: str | None = None) -> Explanation:
        """Classify and explain a uint8 image (C, H, W).

        Args:
            image_CHW: in the shape that the model takes.
            kind: of the maps.
            layer: of the maps; None for the kind's default one.

        Raises:
            InputError: the model has no such maps, or its logits for this image are not finite.
        """
        run = self._run
        x_BCHW = normalise(image_CHW[None], run.mean_C, run.std_C)
        with self._lock:
            objective = self._objective(kind, layer)
            with torch.no_grad():
                logits_BK = run.objective.model(x_BCHW)
                if not bool(logits_BK.isfinite().all()):
                    raise InputError(
                        "the model's logits for this image are not finite; pass another run"
                    )
                predicted_B = logits_BK.argmax(dim=1)
            maps_1KHW = class_maps(objective.model, x_BCHW, kind=kind, layer=layer)
            similarity_1K = _similarity(objective, x_BCHW, predicted_B, maps_1KHW)
            return Explanation(
                class_names=run.class_names,
                image_CHW=image_CHW,
                probability_K=logits_BK.softmax(dim=1)[0],
                maps_KHW=maps_1KHW[0],
                similarity_K=similarity_1K[0],
                target_K=objective.target_of(similarity_1K, predicted_B)[0],
                measure=objective.options.measure,
                own=objective is run.objective and self._introspective,
                fixed=objective.options.shape == "zipf" or objective.options.control == "uniform",
            )

    def _has(self, kind: MapKind) -> bool:
        try:
            find_explained_layer(self._run.objective.model, self._probe_BCHW, kind=kind)
        except InputError:
            return False
        return True

    def _objective(self, kind: MapKind, layer: str | None) -> Introspective:
        """The run's own objective, or one with its options that reads other maps."""
        own = self._run.objective
        # For cam every layer that can be named gives the same maps.
        if kind == own.options.kind and (layer == own.options.layer or kind == "cam"):
            return own
        if (kind, layer) not in self._objectives:
            self._objectives[kind, layer] = reading_other_maps(own, kind, layer)
        return self._objectives[kind, layer]


def _facts(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """What tells a run from others: its images, how accurate it is, its seed; what is known."""
    data = config.get("data")
    if isinstance(data, dict) and isinstance(data.get("data"), str):
        kind, _, place = data["data"].partition(":")
        # Of a folder, its name alone.
        yield printable(Path(place).name if kind == "folder" and place else data["data"])
    path = folder / "result.json"
    accuracy = read_result(path).get("accuracy") if path.exists() else None
    if accuracy is not None:
        yield f"{accuracy:.1f} % correct"
    if "seed" in config:
        yield f"seed {config['seed']}"


def reading_other_maps(own: Introspective, kind: MapKind, layer: str | None) -> Introspective:
    """An objective on the same model with the same options, but another kind of map or layer.

    The similarity "attribution" and the control "weights" read the pooled feature map alone: with
    other maps the kind's default similarity and no control take their places. Running class means
    are of the run's own maps, so the target is the image's own.
    """
    given = asdict(own.options) | {"kind": kind, "layer": layer, "aggregation": "instance"}
    if own.options.measure == "attribution":
        given["similarity"] = None
    if own.options.control == "weights":
        given["control"] = "none"
    # The form has no part in the target, and non_true refuses two classes.
    objective = Introspective(own.model, **(given | {"form": "mixed"})).eval()
    objective.steps = own.steps  # which a permuted target is drawn by
    return objective


def _similarity(objective: Introspective, x_BCHW: Tensor, y_B: Tensor, maps_BKHW: Tensor) -> Tensor:
    """What the objective compares; from the maps at hand where it reads just those.

    Maps of gradients cost a backward pass for each class, so they are not made twice.
    """
    options = objective.options
    if (
        options.measure == "attribution"
        or options.aggregation == "class"
        or options.control == "logits"
    ):
        return objective.similarity(x_BCHW, y_B)
    return similarity_to_true(
        maps_BKHW.float(), y_B, measure=options.measure, centre=options.centre
    )
