"""The options of a search, of searches with several seeds, and of look-ups."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from selfexplain.errors import InputError
from selfexplain.experiments.options import AUTO_DIR, DataOptions, SweepOptions, name_folder
from selfexplain.lease import BaseOptions, LeaSEOptions, Rates
from selfexplain.lease.options import BY_GRADIENT, WITHOUT_SEARCH, Method
from selfexplain.limits import Count, Limits, Natural, OptionError, Seed, check_once, check_options
from selfexplain.spaces import SPACES
from selfexplain.spaces.space import Form
from selfexplain.training.loggers import LoggerName

if TYPE_CHECKING:
    Space = str
else:
    Space = Literal[tuple(SPACES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Search for an architecture.

    The training images are split in two: weights are trained on one half (or --train-size images of
    it), the architecture on the other (--validation sets its fraction).
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    space: Space = "nasbench201"
    """Search space, which defines the possible cells."""
    method: Method = "lease"
    """lease (learning by self-explanation), sanas, darts1 or darts2 (first and second order),
    random_search (random search with weight sharing), random_best (the best of --candidates random
    cells that are each trained alone); or, without a search, random (one randomly drawn cell) or
    all_conv3x3 (a 3x3 convolution on every edge)."""
    audience: str = "small_cnn"
    """The model that learns from the explanations (lease): small_cnn | resnet20 | resnet18 | ... |
    timm:NAME | package.module:factory."""
    out: Path = AUTO_DIR
    """Folder for the results; by default one in runs/ named after the configuration, so that the
    same command uses the same folder again."""
    epochs: Count = 50
    """Passes over the first half of the training images."""
    warmup_epochs: Natural | None = None
    """Epochs at the start in which the architecture is not updated; None for a tenth of all."""
    batch_size: Count = 64
    """Images in a step, from each half of the training images."""
    init_channels: Annotated[int, Limits(least=1, most=4096)] = 16
    """Channels of the supernet's first cells."""
    cells: Annotated[int, Limits(least=1, most=500)] | None = None
    """Cells of the supernet (darts, pcdarts; None for 8, or for 5 in the first of the three
    supernets of base pdarts), or of each of its three stages (nasbench201; None for 5)."""
    form: Form = "small"
    """small for images of about 32 pixels; imagenet (darts and pcdarts) starts with three
    convolutions of stride 2, for photographs."""
    rates: Annotated[Rates, tyro.conf.arg(name="")] = field(default_factory=Rates)
    options: Annotated[LeaSEOptions, tyro.conf.arg(name="")] = field(default_factory=LeaSEOptions)
    base: Annotated[BaseOptions, tyro.conf.arg(name="")] = field(default_factory=BaseOptions)
    candidates: Count = 5
    """Cells that share the epochs of random_best, one after another."""
    validation_labels: Literal["true", "shuffled"] = "true"
    """Labels of the held-out images that move the architecture: their own or, as a control, those
    of other images of the batch (shuffled), from which nothing can be learned. The weights, the
    accuracies in the log and a selection by perturbation see the true ones."""
    stop_at_skips: Count | None = None
    """Stop as soon as the cell (darts: the normal one) would have this many skip connections, and
    keep the cell before that; None to never stop early."""
    seed: Seed = 0
    """Seed of weights, architecture, batches and splits."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU if there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the networks' passes in a step; weights stay in fp32. In bf16 the hypergradient
    is coarser (docs/methods/lease.md)."""
    cuda_graph: bool = False
    """Record a step's gradients on the GPU as a CUDA graph and replay it (one CUDA device), so that
    the GPU does not wait for Python."""
    loggers: tuple[LoggerName, ...] = ()
    """Also log losses, configuration and outcome to tensorboard, wandb (Weights & Biases) or
    mlflow; each requires the extra of the same name."""
    resume: bool = False
    """Continue the search in --out from its last checkpoint, if there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched; name the folder."""
        check_options(self)
        check_once(self, "loggers")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < self.epochs:
            raise OptionError(
                f"warmup_epochs is {self.warmup_epochs}; pass 0 to {self.epochs - 1}, so that the "
                "architecture moves at all",
                SearchConfig,
                "warmup_epochs",
            )
        self._check_method()
        self._check_space()
        self._check_base()
        self._check_candidates()
        self._check_cuda_graph()
        held_out = self.data.validation or 0.5
        object.__setattr__(self, "data", replace(self.data, validation=held_out))
        name_folder(self, "search", self.space, self.method, free=("seeds",))

    @property
    def resting_epochs(self) -> int:
        """Epochs in which the architecture rests."""
        return self.epochs // 10 if self.warmup_epochs is None else self.warmup_epochs

    @property
    def all_epochs(self) -> int:
        """Epochs of the search and of the selection of its cell."""
        return self.epochs + self.base.more_epochs(SPACES[self.space].family)

    def _check_space(self) -> None:
        """Refuse a supernet that no images would fit."""
        space = SPACES[self.space]
        if problem := space.channels_problem(self.init_channels, "init_channels"):
            raise OptionError(problem, type(self), "init_channels")
        if self.cells is not None and (problem := space.cells_problem(self.cells)):
            raise OptionError(problem, type(self), "cells")
        if lacking := space.lacking(self.form, auxiliary=False):
            raise InputError(f"{lacking}; pass --form small")

    def _check_method(self) -> None:
        """Refuse options that the method would not look at."""
        plain = replace(self.options, mode=None) == LeaSEOptions()
        if self.method not in ("lease", "sanas") and not plain:
            raise InputError(
                f"method {self.method} has no explanation and no audience; leave out the options "
                "of lease (lambda, gamma, eps, control, gradient-path, ...)"
            )
        if self.method not in ("lease", "sanas", "darts2") and self.options.mode is not None:
            raise InputError(f"method {self.method} needs no hypergradient; leave out --mode")
        if self.method == "sanas" and self.options.gradient_path == "explainer_only":
            raise InputError(
                "gradient_path is explainer_only, but only the second copy of the explainer "
                "updates the architecture of method sanas; pass full or no_explanation"
            )
        if self.method in WITHOUT_SEARCH and self.stop_at_skips is not None:
            raise OptionError(
                "stop_at_skips looks at an architecture after each epoch, and method "
                f"{self.method} has none; leave it out",
                type(self),
                "stop_at_skips",
            )

    def _check_candidates(self) -> None:
        """Refuse candidates that nobody trains, or for less than an epoch each."""
        problem = ""
        if self.method != "random_best":
            if self.candidates != 5:
                problem = f"which are those of random_best, not of {self.method}; leave them out"
        elif self.candidates > self.epochs:
            problem = f"which {self.epochs} epochs do not suffice to train; pass more epochs"
        elif self.stop_at_skips is not None or self.cuda_graph:
            raise InputError("method random_best knows no --stop-at-skips and no --cuda-graph")
        if problem:
            raise OptionError(
                f"candidates is {self.candidates}, {problem}", type(self), "candidates"
            )

    def _check_stages(self) -> None:
        """Refuse what has no place in the three stages of P-DARTS."""
        if SPACES[self.space].family != "darts":
            raise InputError(
                f"base is pdarts, which is made for the cells of darts, but the space is "
                f"{self.space}; pass space darts or pcdarts, or another base"
            )
        if self.epochs < 6:
            raise OptionError(
                f"epochs is {self.epochs}, but base pdarts has three stages of at least 2 epochs; "
                "pass at least 6",
                type(self),
                "epochs",
            )
        if self.base.select != "argmax" or self.stop_at_skips is not None:
            raise InputError(
                "base pdarts selects its cell by the largest weights and at most two skip "
                "connections; leave out select and stop_at_skips"
            )

    def _check_cuda_graph(self) -> None:
        """Refuse to record steps that draw."""
        control, base = self.options.control, self.base.base
        drawn = f"control {control} draws" if control.endswith("_delta") else ""
        if base == "pdarts":
            drawn = "base pdarts drops connections at random"
        if self.cuda_graph and drawn:
            raise OptionError(
                f"{drawn} in every step, which a recorded step does not; leave out --cuda-graph",
                type(self),
                "cuda_graph",
            )

    def _check_base(self) -> None:
        """Refuse bases and selections that space or method cannot carry."""
        base = self.base
        if self.method not in BY_GRADIENT and base != BaseOptions():
            raise InputError(
                f"method {self.method} has no gradient towards an architecture; leave out --base, "
                "--select and their options, or pass method lease, sanas, darts1 or darts2"
            )
        if self.method not in BY_GRADIENT and self.validation_labels != "true":
            raise OptionError(
                f"validation_labels is {self.validation_labels}, but method {self.method} has no "
                "gradient towards an architecture that could see them; leave it out",
                type(self),
                "validation_labels",
            )
        if base.base == "pdarts":
            self._check_stages()
        if base.select == "argmax":
            return
        if self.stop_at_skips is not None:
            raise InputError(
                f"stop_at_skips looks at the largest weights, but select is {base.select}; leave "
                "out one of them"
            )
        if "none" not in SPACES[self.space].rules.operations:
            raise InputError(
                f"select is {base.select}, but space {self.space} has no operation none, which "
                "stands for what is removed; pass select argmax"
            )
        if base.select == "audience_perturbation" and self.method != "lease":
            raise InputError(
                f"select is audience_perturbation, but method {self.method} has no audience of its "
                "own; pass method lease, or select perturbation"
            )
        if base.select == "audience_perturbation" and self.options.gamma == 0:
            raise InputError(
                "select is audience_perturbation, but with gamma 0 the audience learns nothing "
                "from explanations; pass a positive gamma"
            )


# The options of `selfexplain search`: one search, or the same search with several seeds.


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchesConfig(SearchConfig):
    """Search for an architecture, once or with several seeds.

    The training images are split in two: weights are trained on one half (or --train-size images of
    it), the architecture on the other (--validation sets its fraction). With --seeds, repeating the
    command continues interrupted searches; seeds may be added.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> config = SearchesConfig(data=DataOptions(data="digits"), seeds=(0, 1))
        >>> [one.out.name for one in config.each()]
        ['seed0', 'seed1']
    """

    URLS: ClassVar = ("out",)
    seeds: tuple[Seed, ...] = ()
    """Search with each of these seeds, in the folders seed0, seed1, ... of --out, which may be a
    URL (s3://BUCKET/NAME); none for one search, with --seed, in --out itself."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        """Refuse seeds and processes that would not be looked at; name the folder."""
        check_options(self)
        if self.seeds:
            if self.seed:
                raise InputError("--seed and --seeds exclude each other; pass one of them")
            check_once(self, "seeds")
            name_folder(self, "searches", self.space, self.method, free=("seed", "seeds"))
        elif self.sweep != SweepOptions():
            raise InputError(
                "workers, clusters and --image-cache are for several searches; pass --seeds 0 1 ..."
            )
        SearchConfig.__post_init__(self)

    def each(self) -> list[SearchConfig]:
        """The search of each seed; that of `seed` if there are no `seeds`."""
        if not self.seeds:
            return [self._one()]
        return [
            self._one(seed=seed, out=self.out / f"seed{seed}", resume=True) for seed in self.seeds
        ]

    def _one(self, **instead: object) -> SearchConfig:
        values = {f.name: getattr(self, f.name) for f in fields(SearchConfig)}
        return SearchConfig(**(values | instead))


# The options of lookup.


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupConfig:
    """Look up the accuracy of NAS-Bench-201 or tiny201 cells on CIFAR-100."""

    table: str
    """The benchmark: tiny201 (in this package), a Parquet file, or nats:FOLDER to read NATS-Bench
    with nats_bench."""
    genotype: tuple[str, ...]
    """Genotype files, or cells as the benchmark writes them: |op~0|+|op~0|op~1|+..."""
    out: Path | None = None
    """JSON file to write the results to; None to write none. As lookup.json in a search's folder it
    becomes part of the search's report."""

    def __post_init__(self) -> None:
        """Refuse paths that no file system has."""
        check_options(self)
