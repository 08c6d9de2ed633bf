"""Many images at a time: those that the first run was scored on, filtered by what the runs said.

Shape suffixes: C channels, H and W space, K classes, N scored images, R runs.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from selfexplain.app.explain import Explainer
from selfexplain.app.gate import tell_of
from selfexplain.app.view import PACKAGE
from selfexplain.app.viewer import Example, Viewer
from selfexplain.data.images import ImageSet
from selfexplain.errors import InputError
from selfexplain.experiments.explain.evaluate import scored_set
from selfexplain.experiments.read_runs import read_record
from selfexplain.report.html import image_pixels, render
from selfexplain.report.style import method_styles, series_of

# Which images are shown.

Which = Literal["all", "wrong", "right", "only_first", "only_second", "both", "differ"]
Order = Literal["surest", "unsurest", "given"]
ANY = -1
"""The class that stands for all."""
MOST = 600
"""Thumbnails that are listed before one asks for more; the browser loads those that it shows."""
SIDE = 96
"""Most pixels of a thumbnail's side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which images are looked for; what a run said is what the first one said."""

    true: int = ANY
    """Class by number."""
    predicted: int = ANY
    which: Which = "all"
    """Right or wrong; of two runs, also where only one is wrong, both are, or their answers
    differ."""
    least: float = 0.0
    """Confidence, from here ..."""
    most: float = 1.0
    """... to here."""
    order: Order = "surest"


def select(
    labels_N: Tensor, predicted_RN: Tensor, confidence_RN: Tensor, wanted: Filter
) -> list[int]:
    """Places of the images that are looked for, in the order in which they are shown.

    Args:
        labels_N: true classes.
        predicted_RN: answers of one or two runs.
        confidence_RN: their probabilities.
        wanted: which images, and in which order.

    Example:
        >>> said, sure = torch.tensor([[0, 1, 1]]), torch.tensor([[0.9, 0.6, 0.8]])
        >>> select(torch.tensor([0, 0, 0]), said, sure, Filter(which="wrong"))
        [2, 1]
    """
    wrong_RN = predicted_RN != labels_N
    first_N, second_N = wrong_RN[0], wrong_RN[-1]
    kept_N = {
        "all": torch.ones_like(first_N),
        "wrong": first_N,
        "right": ~first_N,
        "only_first": first_N & ~second_N,
        "only_second": second_N & ~first_N,
        "both": first_N & second_N,
        "differ": predicted_RN[0] != predicted_RN[-1],
    }[wanted.which]
    if wanted.true != ANY:
        kept_N = kept_N & (labels_N == wanted.true)
    if wanted.predicted != ANY:
        kept_N = kept_N & (predicted_RN[0] == wanted.predicted)
    sure_N = confidence_RN[0]
    # Half a thousandth to either side: a slider's 100 % is to hold what is rounded to it.
    kept_N = kept_N & (sure_N >= wanted.least - 5e-4) & (sure_N <= wanted.most + 5e-4)
    places_n = kept_N.nonzero()[:, 0]
    if wanted.order != "given":
        order_n = sure_N[places_n].argsort(descending=wanted.order == "surest", stable=True)
        places_n = places_n[order_n]
    found: list[int] = places_n.tolist()
    return found


# The images, and what the runs said of them.


class Explorer:
    """The images that a run was scored on; of a second run, what it said of the same.

    The images themselves are loaded when the first is asked for.

    Args:
        explainers: one or two runs.
        names: of the runs.

    Raises:
        InputError: what a run kept is damaged, or the first has kept no predictions.

    Example:
        >>> Explorer([], [])
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no run to explore; pass one
    """

    def __init__(self, explainers: Sequence[Explainer], names: Sequence[str]) -> None:
        if not explainers:
            raise InputError("there is no run to explore; pass one")
        first = explainers[0]
        said = [None if e.folder is None else read_record(e.folder).predictions for e in explainers]
        if said[0] is None or first.folder is None:
            raise InputError(
                f"{first.name} has kept no predictions of the images that it was scored on; pass a "
                "run of selfexplain train, compare or retrain to look through them"
            )
        self.labels_N, self.class_names = said[0].labels_N, first.class_names
        # Another run counts if it was scored on the same images, as far as its labels tell.
        shown = [
            (place, each)
            for place, each in enumerate(said)
            if each is not None
            and explainers[place].class_names == self.class_names
            and torch.equal(each.labels_N, self.labels_N)
        ]
        self.names = [names[place] for place, _ in shown]
        p_RNK = torch.stack([each.logits_NK.float().softmax(dim=1) for _, each in shown])
        self.confidence_RN, self.predicted_RN = p_RNK.max(dim=2)
        styles = method_styles([explainer.spec for explainer in explainers])
        self.series = [series_of(styles[explainers[place].spec].colour) for place, _ in shown]
        self._folder, self._explainer = first.folder, first
        self._images: ImageSet | None = None
        self._lock = Lock()

    def choices(self) -> list[tuple[str, Which]]:
        """Name and value of what may be asked for by right and wrong."""
        if len(self.names) < 2:
            return [("all", "all"), ("wrong", "wrong"), ("right", "right")]
        one, other = self.names
        return [
            ("all", "all"),
            (f"{one} is wrong", "wrong"),
            (f"{one} is right", "right"),
            (f"only {one} is wrong", "only_first"),
            (f"only {other} is wrong", "only_second"),
            ("both are wrong", "both"),
            ("their answers differ", "differ"),
        ]

    def start(self) -> Filter:
        """What is shown first: the mistakes, the surest first, if there are any."""
        wrong = bool((self.predicted_RN[0] != self.labels_N).any())
        return Filter(which="wrong" if wrong else "all")

    def select(self, wanted: Filter) -> list[int]:
        """Places of the images that are looked for."""
        return select(self.labels_N, self.predicted_RN, self.confidence_RN, wanted)

    def html(self, places: Sequence[int], most: int) -> str:
        """The thumbnails at these places, at most so many, with what the runs said of them."""
        tiles = [
            {
                "place": place,
                "true": self.class_names[int(self.labels_N[place])],
                "said": [
                    {
                        "name": self.class_names[int(predicted_N[place])],
                        "sure": f"{100 * float(confidence_N[place]):.0f} %",
                        "right": bool(predicted_N[place] == self.labels_N[place]),
                        "series": series,
                    }
                    for predicted_N, confidence_N, series in zip(
                        self.predicted_RN, self.confidence_RN, self.series, strict=True
                    )
                ],
            }
            for place in places[:most]
        ]
        _, height, width = self._explainer.shape_CHW
        return str(
            render(
                "explorer.html",
                PACKAGE,
                tiles=tiles,
                found=len(places),
                of=len(self.labels_N),
                runs=list(zip(self.names, self.series, strict=True)),
                crispness="sx-crisp" if max(height, width) < SIDE else "sx-smooth",
            )
        )

    def example(self, place: int) -> Example:
        """One of the images.

        Raises:
            InputError: there is no such image, or the data of the run cannot be read any more.
        """
        if not 0 <= place < len(self.labels_N):
            raise InputError(f"there is no image {place}; pass 0 to {len(self.labels_N) - 1}")
        image_CHW = self._set().read(torch.tensor([place]))[0].cpu()
        return Example(image_CHW, self.class_names[int(self.labels_N[place])])

    def thumbnail(self, place: int) -> tuple[str, bytes]:
        """Media type and bytes of a small picture of an image.

        Raises:
            InputError: as `example`.
        """
        image_CHW = self.example(place).image_CHW
        if len(image_CHW) not in (1, 3):  # such as images of many spectral bands
            image_CHW = image_CHW.float().mean(dim=0, keepdim=True).byte()
        pixels_HWC, grey = image_pixels(image_CHW, side=SIDE), len(image_CHW) == 1
        small = max(self._explainer.shape_CHW[1:]) < SIDE
        file = io.BytesIO()
        picture = Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC)
        picture.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
        return ("image/png" if small else "image/jpeg"), file.getvalue()

    def trouble(self) -> str:
        """Whether the images can be read: "" if so, else a sentence; the terminal says why.

        It is for visitors, who are not to learn where the data are.
        """
        try:
            self.example(0)
        except Exception as error:  # data sets of all kinds may have gone since
            tell_of(error)
            return (
                f"The images that {self.names[0]} was scored on cannot be read any more; the "
                "terminal of the app says why."
            )
        return ""

    def _set(self) -> ImageSet:
        with self._lock:
            if self._images is None:
                images = scored_set(
                    self._folder, self._explainer.class_names, self._explainer.shape_CHW
                )
                if not torch.equal(images.labels_N, self.labels_N):
                    raise InputError(
                        f"the data of {self._folder} are not those that it was scored on; put "
                        "them back"
                    )
                self._images = images
            return self._images


def explorer_of(viewer: Viewer) -> Explorer | str:
    """The explorer of a viewer's runs, or the sentence why there is none."""
    try:
        return Explorer(viewer.explainers, viewer.names())
    except InputError as error:
        return str(error)
