"""What the page shows first and answers to a choice; nothing here knows of Gradio.

Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from selfexplain.app.explain import Explainer, Explanation, to_shape
from selfexplain.app.view import (
    error_html,
    explanation_html,
    hint_html,
    likeness,
    run_html,
    strength,
    title_html,
)
from selfexplain.data.images import Ranges
from selfexplain.errors import InputError
from selfexplain.experiments.data import image_files, read_images
from selfexplain.explanations import KINDS, MapKind
from selfexplain.files import read_shaped
from selfexplain.records import printable
from selfexplain.report import disambiguate
from selfexplain.report.style import method_styles, series_of
from selfexplain.report.verdicts import readable

# The images that a run has kept of those that it was scored on.


SNAPSHOTS = Path("album") / "images.safetensors"
"""Where a run keeps them, in its folder."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image (C, H, W) in uint8, and its true class by name."""

    image_CHW: Tensor
    class_name: str

    def image(self) -> Image.Image:
        """The image as a Pillow image."""
        return Image.fromarray(self.image_CHW.permute(1, 2, 0).squeeze(2).numpy())


def read_examples(folder: Path, class_names: tuple[str, ...]) -> list[Example]:
    """The kept images of a run; none where it has kept none."""
    path = folder / SNAPSHOTS
    if not path.exists():
        return []
    kept = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    labels = kept["labels"].tolist()
    if not all(0 <= label < len(class_names) for label in labels):
        raise InputError(
            f"{path} belongs to another run: it has labels that are none of this run's "
            f"{len(class_names)} classes; delete it to run the app without examples"
        )
    return [
        Example(image_CHW, class_names[label])
        for image_CHW, label in zip(kept["images"], labels, strict=True)
    ]


MOST_EXAMPLES = 60
"""Images of a folder that can be chosen from."""


def examples_below(
    folder: Path, shape_CHW: tuple[int, int, int], ranges: Ranges | None = None
) -> list[Example]:
    """Images below a folder, each by the name of the folder that it lies in, or of its file.

    Of more than can be shown, some that are evenly spread over them.

    Raises:
        InputError: there is no such folder, it holds no images, or one cannot be read.

    Example:
        >>> examples_below(Path("absent"), (1, 8, 8))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no folder absent; pass one with images
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; pass one with images")
    files = image_files([folder])
    shown = torch.linspace(0, len(files) - 1, min(MOST_EXAMPLES, len(files))).round().long()
    files = [files[i] for i in shown.tolist()]
    images_NCHW = read_images(files, shape_CHW, ranges)
    names = [each.stem if each.parent == folder else each.parent.name for each in files]
    return [Example(image, printable(name)) for image, name in zip(images_NCHW, names, strict=True)]


# What the page answers to a choice: nothing here knows of Gradio.


KIND_NAMES: dict[MapKind, str] = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "feature_x_gradient": "feature x gradient",
    "gradient": "gradient",
    "input_x_gradient": "input x gradient",
}
DEFAULT = ""
"""The layer that is no name: the kind's default."""

Fitted = tuple[Tensor | str, ...]
"""An image in the shape of each run's model, or the sentence why it cannot be."""


class Viewer:
    """One or two runs that look at the same image.

    Example:
        >>> Viewer([]).kinds
        []
    """

    def __init__(self, explainers: Sequence[Explainer]) -> None:
        self.explainers = list(explainers)

    @property
    def kinds(self) -> list[tuple[str, MapKind]]:
        """Name and value of the kinds of map that at least one of the models has."""
        known = {kind for explainer in self.explainers for kind in explainer.kinds}
        return [(KIND_NAMES[kind], kind) for kind in KINDS if kind in known]

    @property
    def most_classes(self) -> int:
        """The greatest number of classes of a run."""
        return max(len(explainer.class_names) for explainer in self.explainers)

    def heading(self) -> str:
        """The heading of the page, as HTML; it says how the runs' classes differ."""
        return title_html(self.names(), [each.class_names for each in self.explainers])

    def names(self) -> list[str]:
        """Names of the runs: their objectives, with seeds or folders where these are alike."""
        plain = [readable(explainer.spec) for explainer in self.explainers]
        facts = [explainer.facts[-1:] for explainer in self.explainers]
        seeded = [", ".join((name, *fact)) for name, fact in zip(plain, facts, strict=True)]
        placed = [
            f"{name} ({each.name})" for name, each in zip(plain, self.explainers, strict=True)
        ]
        for names in (plain, seeded, placed):
            if len(set(names)) == len(names):
                return names
        return disambiguate(plain)

    def headings(self) -> list[str]:
        """The headings of the runs, as HTML, each in the colour that reports give its method."""
        return [
            run_html(name, explainer.facts, series)
            for name, explainer, series in zip(
                self.names(), self.explainers, self.series(), strict=True
            )
        ]

    def series(self) -> list[int]:
        """The number of each run's colour, which is that of its method."""
        styles = method_styles([explainer.spec for explainer in self.explainers])
        return [series_of(styles[explainer.spec].colour) for explainer in self.explainers]

    def layers(self, run: int, kind: MapKind) -> list[tuple[str, str]]:
        """Name and value of the layers of a run that can be explained, the default one first."""
        names: tuple[str, ...] = ()
        # For cam all names mean the default one; where a model lacks the kind, the view says so.
        if kind != "cam" and kind in self.explainers[run].kinds:
            names = self.explainers[run].layers(kind)
        return [(_default_name(kind), DEFAULT), *((name, name) for name in names)]

    def own_layer(self, run: int, kind: MapKind) -> str:
        """The layer that the run was trained with if the kind offers it, else the default."""
        own_kind, layer = self.explainers[run].own
        offered = {name for _, name in self.layers(run, kind)}
        return layer if layer in offered and kind == own_kind else DEFAULT

    def fit(self, image: Image.Image) -> Fitted:
        """Bring an image to the shape of each run's model."""
        return tuple(_fitted(image, explainer) for explainer in self.explainers)

    def views(
        self, fitted: Fitted | None, kind: MapKind, layers: Sequence[str], maps: int
    ) -> list[str]:
        """The HTML of each run; a sentence where the image or the maps do not fit its model.

        The maps of all runs are drawn on one scale, so that they can be compared; so are the
        similarities, where they are of one measure.

        Args:
            fitted: the image.
            kind: of the maps.
            layers: of each run.
            maps: how many are drawn.
        """
        if fitted is None:
            return [hint_html()] * len(self.explainers)
        found = [
            self._explained(run, image, kind, layer)
            for run, (image, layer) in enumerate(zip(fitted, layers, strict=True))
        ]
        explained = [each for each in found if isinstance(each, Explanation)]
        scale = full = None
        if len(explained) > 1:
            scale = max(map(strength, explained))
            if len({each.measure for each in explained}) == 1:
                full = max(map(likeness, explained))
        return [
            explanation_html(each, maps=maps, scale=scale, full=full, series=series)
            if isinstance(each, Explanation)
            else error_html(each)
            for each, series in zip(found, self.series(), strict=True)
        ]

    def _explained(
        self, run: int, image: Tensor | str, kind: MapKind, layer: str
    ) -> Explanation | str:
        if isinstance(image, str):
            return image
        try:
            return self.explainers[run].explain(image, kind, layer or None)
        except InputError as error:
            return str(error)


def _fitted(image: Image.Image, explainer: Explainer) -> Tensor | str:
    try:
        return to_shape(image, explainer.shape_CHW, explainer.ranges)
    except InputError as error:
        return str(error)


def _default_name(kind: MapKind) -> str:
    return "the image" if kind in {"gradient", "input_x_gradient"} else "last feature map"
