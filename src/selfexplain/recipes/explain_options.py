"""The options of explain."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.limits import OptionError, check_once, check_options
from selfexplain.recipes.quality_options import QualityOptions

FORMATS = (".png", ".svg", ".pdf")
"""Endings of the pictures that can be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainConfig:
    """Draw class maps and soft targets of images by a trained run, or evaluate its maps."""

    run: tuple[Path, ...]
    """Folder of a finished run (of train, of retrain, or one of a comparison's runs/); several to
    compare their maps with --evaluate, differences to the first."""
    images: tuple[Path, ...] = ()
    """Image files to draw."""
    out: Path | None = None
    """File to write: a picture as .png, .svg or .pdf; with --evaluate .json, by default
    explanations.json in the first run's folder."""
    kind: tuple[MapKind, ...] = ("cam",)
    """Kind of the class maps; several with --evaluate."""
    layer: str | None = None
    """Layer of the maps, by module name; None for the last feature map."""
    evaluate: bool = False
    """Instead of drawing, measure how good the maps are on images that the run was scored on."""
    quality: Annotated[QualityOptions, tyro.conf.arg(name="")] = field(
        default_factory=QualityOptions
    )

    def __post_init__(self) -> None:
        """Refuse what drawing, or evaluating, cannot use."""
        check_options(self)
        for name in ("run", "kind"):
            values = getattr(self, name)
            if not values:
                raise OptionError(f"{name} is empty; pass at least one", ExplainConfig, name)
            check_once(self, name)
        if self.evaluate:
            self._check_evaluation()
        else:
            self._check_drawing()
        if self.out is not None and self.out.is_dir():
            raise OptionError(f"out is {self.out}, a folder; pass a file", ExplainConfig, "out")

    def _check_evaluation(self) -> None:
        if self.images:
            raise InputError(
                "evaluate draws no images, but takes those that the run was scored on; leave out "
                "--images, or pass --boxes with a table of images and boxes"
            )
        if self.results_file.suffix != ".json":
            said = f"out is {self.out}; with --evaluate pass a file that ends in .json"
            raise OptionError(said, ExplainConfig, "out")

    def _check_drawing(self) -> None:
        if self.quality != QualityOptions():
            raise InputError("options of --evaluate were given without it; pass --evaluate too")
        if len(self.run) > 1 or len(self.kind) > 1:
            raise InputError(
                "a picture is drawn of one run and one kind of map; pass one of each, or --evaluate"
            )
        if self.out is None or self.out.suffix not in FORMATS:
            given = "missing" if self.out is None else self.out
            said = f"out is {given}; pass a file that ends in {', '.join(FORMATS)}"
            raise OptionError(said, ExplainConfig, "out")

    @property
    def results_file(self) -> Path:
        """Where the results of an evaluation are written."""
        return self.run[0] / "explanations.json" if self.out is None else self.out
