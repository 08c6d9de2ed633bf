"""Options of the commands that read finished runs: explain, its scores, export, report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.limits import (
    Count,
    Limits,
    NotNegative,
    OptionError,
    Positive,
    Seed,
    check_once,
    check_options,
)

# How the explanations of a run are evaluated.


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOptions:
    """Which images explanations are evaluated on, and with how many samples; for --evaluate."""

    count: Count = 200
    """Number of images, drawn with --seed from the run's evaluation split; all if there are
    fewer."""
    seed: Seed = 0
    """Seed of the images, perturbations and randomised weights: the same for all runs."""
    steps: Count = 32
    """Steps of the deletion and insertion paths."""
    samples: Count = 50
    """Perturbations of each image for infidelity."""
    radius: Positive = 0.02
    """Largest change of a normalised pixel for max-sensitivity."""
    neighbours: Count = 10
    """Number of nearby images that max-sensitivity evaluates."""
    boxes: Path | None = None
    """CSV file with the boxes of objects in image files, for the pointing game."""
    tolerance: NotNegative = 0.0
    """Pixels of the model's images by which each box is widened."""
    values: bool = False
    """Keep the values of every image in the results, not only mean and standard deviation."""
    batch_size: Count = 500
    """Largest number of images in one forward pass."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        check_options(self)


# A classifier without a run.


WITHOUT_RUN = (
    "--model efficientnet_lite0 --pretrained, or --model package.module:factory --weights FILE"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenModel:
    """A classifier that is given in place of a run: published weights, or a file of them."""

    model: str | None = None
    """In place of a run, a model: with --pretrained, one with published weights
    (efficientnet_lite0, which requires the pretrained extra, timm:NAME or hf:NAME); with --weights,
    one of your own (package.module:factory), of timm or transformers, or one of those of train."""
    pretrained: bool = False
    """Give --model its published weights."""
    weights: Path | None = None
    """File with the weights of --model: .safetensors, or a state_dict saved by torch (.pt, .pth,
    .ckpt), which may lie in a checkpoint."""
    image_size: Annotated[int, Limits(least=1, most=16_384)] | None = None
    """Side in pixels of the images that --weights were trained on; None for that which timm or
    transformers names."""
    class_names: tuple[str, ...] = ()
    """Names of the classes of --weights, in their order; none for numbers."""
    mean: tuple[float, ...] = ()
    """Mean of each channel (or of all) that images in [0, 1] were normalised by for --weights; none
    for what timm or transformers name, and 0 for other models."""
    std: tuple[Positive, ...] = ()
    """Standard deviation, likewise; 1 for other models."""

    def check_given(self, runs: bool, missing: InputError | None = None) -> None:
        """Refuse both a run and a model, neither, and a model that has learned nothing.

        Args:
            runs: whether a run is given.
            missing: what is raised if neither is; None for a word about the field `run`.
        """
        kind = type(self)
        given = [name for name in _OF_WEIGHTS if getattr(self, name)]
        if runs and (self.model is not None or self.pretrained or given):
            raise InputError(
                "a run has its model; pass the run, or --model with --pretrained or --weights"
            )
        if runs:
            return
        if self.model is None and (given or self.pretrained):
            flag = (given or ["pretrained"])[0].replace("_", "-")
            raise InputError(f"--{flag} is of a model; pass --model too")
        if self.model is None:
            said = f"run is empty; pass a folder, or {WITHOUT_RUN}"
            raise missing or OptionError(said, kind, "run")
        if self.pretrained and given:
            said = given[0].replace("_", "-")
            raise InputError(
                f"published weights come with all that is known of them; leave out --{said}, or "
                "--pretrained"
            )
        if not self.pretrained and self.weights is None:
            raise OptionError(
                f"model is {self.model}, which knows nothing yet; pass --pretrained or --weights "
                "too, or a run",
                kind,
                "model",
            )
        check_once(self, "class_names")


_OF_WEIGHTS = ("weights", "image_size", "class_names", "mean", "std")


# The options of explain.


FORMATS = (".png", ".svg", ".pdf")
"""Endings of the pictures that can be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainConfig(GivenModel):
    """Draw class maps and soft targets of images by a trained run, or evaluate its maps.

    A network with weights needs no run: --model efficientnet_lite0 --pretrained, or --model
    package.module:factory --weights FILE. Maps of its five most probable classes are drawn.
    """

    run: tuple[Path, ...] = ()
    """Folder of a finished run (of train, of retrain, of a recorder, or one of a comparison's
    runs/); several to compare their maps with --evaluate, differences to the first."""
    images: tuple[Path, ...] = ()
    """Image files to explain, and folders of them."""
    out: Path | None = None
    """File to write: a figure as .png, .svg or .pdf; with --evaluate .json, by default
    explanations.json in the first run's folder."""
    kind: tuple[MapKind, ...] = ("cam",)
    """Kind of the class maps; several with --evaluate."""
    layer: str | None = None
    """Layer of the maps, by module name; None for the last feature map."""
    evaluate: bool = False
    """Instead of plotting maps, measure their quality on the run's evaluation split."""
    quality: Annotated[QualityOptions, tyro.conf.arg(name="")] = field(
        default_factory=QualityOptions
    )

    def __post_init__(self) -> None:
        """Refuse what drawing, or evaluating, cannot use."""
        check_options(self)
        if not self.kind:
            raise OptionError("kind is empty; pass at least one", ExplainConfig, "kind")
        for name in ("run", "kind"):
            check_once(self, name)
        self._check_who()
        if self.evaluate:
            self._check_evaluation()
        else:
            self._check_drawing()
        if self.out is not None and self.out.is_dir():
            raise OptionError(f"out is {self.out}, a folder; pass a file", ExplainConfig, "out")

    def _check_who(self) -> None:
        """Refuse both a run and a model, or neither."""
        self.check_given(bool(self.run))
        if self.model is not None and self.evaluate:
            raise InputError(
                "evaluate takes the images that a run was scored on; pass --run, or leave out "
                "--evaluate"
            )

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


# The options of export.


Format = Literal["onnx", "torch_export", "source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(GivenModel):
    """Export a trained classifier in portable formats."""

    run: Path | None = None
    """Folder of a finished run (of train, of retrain, of a recorder, or one of a comparison's
    runs/)."""
    out: Path
    """Folder to write to; files of an earlier export in it are overwritten."""
    formats: tuple[Format, ...] = ()
    """In addition to model.safetensors, config.json and README.md: onnx (model.onnx; requires the
    extra onnx), torch_export (model.pt2), source (network.py, plain PyTorch; for the network of a
    genotype)."""
    push: str | None = None
    """Repository of the Hugging Face hub, NAME/NAME, to upload the folder to; log in first, with hf
    auth login."""
    private: bool = False
    """Make the repository private if it is newly created."""

    def __post_init__(self) -> None:
        """Refuse paths that no file system has, and a model that is not given, or twice."""
        check_options(self)
        self.check_given(self.run is not None)


# The options of table.


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Print the table of comparisons, or draw their forest plot, for a paper.

    In bold is the best of each column, and all that a paired t-test over the same seeds does not
    find worse.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of compare, study-kd or nas-study, of runs of train, or of several of these; also of
    a study whose runs are in logs.tar.gz."""
    format: Literal["markdown", "latex", "csv", "html"] = "markdown"
    """markdown, latex (with the package booktabs), csv (all numbers, for programs) or html."""
    columns: tuple[str, ...] = ()
    """Columns after the first: accuracy, nll, brier, ece, adaptive_ece, aurc, excess_aurc,
    nll_scaled, ece_scaled, corrupted_accuracy; difference (in accuracy, to the first objective) or
    NAME_difference; p, n, cost, total_cost. None for accuracy, difference, nll, ece and cost."""
    spread: Literal["std", "interval"] = "std"
    """What follows the ± of a mean: the standard deviation over seeds, or half of the mean's 95 %
    interval."""
    figure: tuple[Path, ...] = ()
    """Files to draw the forest plot of the paired differences to, each ending in .pdf, .svg or
    .png."""
    score: str = "accuracy"
    """Score whose differences --figure draws."""
    out: Path | None = None
    """File for the table; None to print it."""

    def __post_init__(self) -> None:
        """Refuse no folder, a folder twice, and figures of no known kind."""
        check_options(self)
        if not self.dirs:
            raise InputError("no folder is given; pass at least one, such as runs/demo")
        check_once(self, "dirs")
        check_once(self, "figure")
        for path in self.figure:
            if path.suffix not in FORMATS:
                said = f"figure is {path}; pass files that end in {', '.join(FORMATS)}"
                raise OptionError(said, TableConfig, "figure")
        for path in (*self.figure, *([self.out] if self.out is not None else [])):
            if path.is_dir():
                name = "out" if path == self.out else "figure"
                raise OptionError(f"{name} is {path}, a folder; pass a file", TableConfig, name)


_RECORDS = (
    "run.json",
    "compare.json",
    "results.json",
    "study.json",
    "searches.json",
    "nas-study.json",
    "seed*/run.json",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig(GivenModel):
    """Write one HTML file with the results of training runs, comparisons, studies or searches.

    It needs no other file and no network access. A model without a run is scored on --images.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of compare, study-kd, search, nas-study, train or retrain; finished or not."""
    images: Path | None = None
    """Folder of images to score --model on: a folder for each class, of its name."""
    out: Path | None = None
    """File to write; report.html in the first folder by default."""

    def __post_init__(self) -> None:
        """Refuse no folder, a folder twice, and a folder to write to."""
        check_options(self)
        said = f"no folder is given; pass at least one, such as runs/demo, or {WITHOUT_RUN}"
        self.check_given(bool(self.dirs), InputError(said))
        self._check_images()
        if len(set(self.dirs)) < len(self.dirs):
            raise InputError("a folder is named twice; pass each once")
        for folder in self.dirs:
            if not folder.is_dir():
                raise InputError(f"there is no folder {folder}; pass folders of runs")
        if self.out is not None and self.out.is_dir():
            said = f"out is {self.out}, a folder; pass a file that ends in .html"
            raise OptionError(said, ReportConfig, "out")

    def _check_images(self) -> None:
        if self.dirs and self.images is not None:
            raise InputError("images are for --model; a run has been scored: leave out --images")
        if self.dirs:
            return
        if self.images is None:
            raise OptionError(
                "images is missing; pass the folder to score the model on, with a folder for each "
                "class",
                ReportConfig,
                "images",
            )
        if self.out is None:
            raise OptionError("out is missing; pass a file that ends in .html", ReportConfig, "out")

    def check_folders(self) -> None:
        """Raise InputError for a folder without any of the files by which a report knows its kind.

        Example:
            >>> ReportConfig(dirs=(Path(),)).check_folders()
            Traceback (most recent call last):
            selfexplain.errors.InputError: . contains no run and no comparison; pass ...
        """
        for folder in self.dirs:
            if not any(path for pattern in _RECORDS for path in folder.glob(pattern)):
                raise InputError(
                    f"{folder} contains no run and no comparison; pass the folder of one"
                )

    @property
    def file(self) -> Path:
        """Where the report is written."""
        return self.dirs[0] / "report.html" if self.out is None else self.out
