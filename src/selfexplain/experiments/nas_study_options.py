"""The options of nas-study: search methods by specs, and what all of its searches share."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args, get_type_hints

import tyro

from selfexplain.errors import InputError
from selfexplain.experiments.options import (
    AUTO_DIR,
    DataOptions,
    DeviceOptions,
    RetrainConfig,
    SweepOptions,
    name_folder,
    run_name,
    to_dict,
)
from selfexplain.experiments.search_options import SearchConfig, Space
from selfexplain.experiments.specs import read_options
from selfexplain.lease import Rates
from selfexplain.lease.options import WITHOUT_SEARCH, Method
from selfexplain.limits import (
    Count,
    Limits,
    Natural,
    OptionError,
    Seed,
    check_once,
    check_options,
    check_values,
    is_url,
)
from selfexplain.records import quoted
from selfexplain.spaces import SPACES
from selfexplain.spaces.space import Form
from selfexplain.training import TrainingOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class NASStudyConfig:
    """Compare search methods over seeds, and say in a sentence what was proven.

    Every method searches with every seed, on the same images; the cells found are looked up in a
    table, or retrained, and each method is compared with the first by paired tests. Repeating the
    command continues an interrupted study; methods, seeds and budgets may be added.

    Example:
        >>> config = NASStudyConfig(
        ...     data=DataOptions(data="digits"),
        ...     methods=("darts1", "lease:coupling=normalised,share=2"),
        ...     table="tiny201",
        ...     space="tiny201",
        ... )
        >>> search_of(config, config.methods[1], budget=50, seed=0).options.share
        2.0
    """

    URLS: ClassVar = ("out",)
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    methods: tuple[str, ...] = ("darts2", "lease", "random_search", "random")
    """Search methods, named as for search; differences are taken against the first. Options of a
    method follow a colon: lease:coupling=normalised,share=1 darts1:architecture_lr=0.01."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds; every method searches with each of them. With fewer than two nothing can be tested."""
    budget: tuple[Count, ...] = (50,)
    """Epochs of each search; several for a grid of budgets, each of which is compared by itself."""
    space: Space = "nasbench201"
    """Search space, which defines the possible cells."""
    table: str | None = None
    """Look the cells up in this benchmark: tiny201, a Parquet file, or nats:FOLDER."""
    retrain: Count | None = None
    """Train the networks of the cells from scratch for this many epochs, on both halves of the
    training images (or --train-size of them), and compare their accuracy on the test images."""
    retrain_found: Literal["all", "best"] = "all"
    """Which cells to retrain: that of every search, with its seed; or, of each method, only that of
    the search with the best validation accuracy (random: that of the first seed), with every
    seed."""
    retrain_batch_size: Count = 128
    """Images in a step of retraining."""
    retrain_channels: Annotated[int, Limits(least=1, most=4096)] | None = None
    """Channels of the first cells of retrained networks; None for the published ones."""
    retrain_cells: Annotated[int, Limits(least=1, most=500)] | None = None
    """Cells of retrained networks (darts), or of each of their three stages (nasbench201); None for
    the published ones."""
    out: Path = AUTO_DIR
    """Folder for the results, or a URL (s3://BUCKET/NAME); by default one in runs/ named after the
    configuration, so that the same command uses the same folder again."""
    batch_size: Count = 64
    """Images in a step of a search, from each half of the training images."""
    init_channels: Annotated[int, Limits(least=1, most=4096)] = 16
    """Channels of the supernet's first cells."""
    cells: Annotated[int, Limits(least=1, most=500)] | None = None
    """Cells of the supernet (darts, pcdarts; None for 8), or of each of its three stages
    (nasbench201; None for 5)."""
    form: Form = "small"
    """Of supernets and retrained networks: small for images of about 32 pixels; imagenet (darts and
    pcdarts) starts with three convolutions of stride 2, for photographs."""
    warmup_epochs: Natural | None = None
    """Epochs at the start in which the architecture is not updated; None for a tenth of all."""
    audience: str = "small_cnn"
    """The model that learns from the explanations (lease)."""
    rates: Annotated[Rates, tyro.conf.arg(name="")] = field(default_factory=Rates)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU if there is one."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        """Refuse a study of nothing, and methods that cannot search; name the folder."""
        check_options(self)
        for name in ("methods", "seeds", "budget"):
            if not getattr(self, name):
                raise OptionError(f"{name} is empty; pass at least one", NASStudyConfig, name)
            check_once(self, name)
        self._check_truth()
        here = copy(self)
        if is_url(self.out):  # searches happen on this machine
            object.__setattr__(here, "out", AUTO_DIR)
        for budget in self.budget:
            _check_distinct(
                {spec: search_of(here, spec, budget, self.seeds[0]) for spec in self.methods}
            )
        name_folder(self, "nas-study", self.space, free=ADDABLE)

    def _check_truth(self) -> None:
        """Refuse a study without a measure of its cells, and options of a retraining not asked."""
        if self.retrain is not None:
            space = SPACES[SPACES[self.space].family]
            channels = space.channels_problem(self.retrain_channels or 0, "retrain_channels")
            if channels:
                raise OptionError(channels, NASStudyConfig, "retrain_channels")
            return
        defaults = {f.name: f.default for f in fields(self) if f.name.startswith("retrain_")}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                said = f"{name} is for retraining; pass --retrain EPOCHS too"
                raise OptionError(said, NASStudyConfig, name)
        if self.table is None:
            raise InputError(
                "validation accuracies of different supernets are not comparable; pass --table to "
                "look the cells up, or --retrain EPOCHS to train them"
            )


ADDABLE = (
    "methods",
    "seeds",
    "budget",
    "table",
    "retrain",
    "retrain_found",
    "retrain_batch_size",
    "retrain_channels",
    "retrain_cells",
)
"""Options that may change when a study is continued: its searches stay what they were."""


# From the spec of a method to its searches.


class Place(NamedTuple):
    """Where a search's configuration has an option: a field of its own, or of a part of it."""

    part: str | None
    field: str
    hint: Any


SHARED = {f.name for f in fields(NASStudyConfig)} | {"epochs", "seed", "method", "resume"}
"""Fields of a search that say what is searched on: the same for all methods of a study."""
OVERRIDABLE = {"rates", "audience", "warmup_epochs"}
"""Of these, those that a method may have its own of."""


def method_options() -> dict[str, Place]:
    """What a method's spec may set: every option of a search that says how, not on what.

    Example:
        >>> options = method_options()
        >>> options["architecture_lr"].part, options["lambda"].field, "batch_size" in options
        ('rates', 'lambda_', False)
    """
    found: dict[str, Place] = {}
    for name, hint in get_type_hints(SearchConfig).items():
        if name in (SHARED - OVERRIDABLE) | {"loggers"}:
            continue
        if is_dataclass(hint):
            inner = get_type_hints(hint)
            found |= {part.rstrip("_"): Place(name, part, h) for part, h in inner.items()}
        else:
            found[name.rstrip("_")] = Place(None, name, hint)
    return found


def read_method(spec: str) -> tuple[Method, dict[str | None, dict[str, Any]]]:
    """Name of a method's spec, and its options: part of a search's configuration -> field -> value.

    Raises:
        InputError: there is no such method or option, or a value has not its type.

    Example:
        >>> read_method("lease:share=2,architecture_lr=0.01")
        ('lease', {'options': {'share': 2.0}, 'rates': {'architecture_lr': 0.01}})
    """
    if not spec.isprintable():
        raise InputError(f"{quoted(spec)} is no method; pass one as NAME:option=value,...")
    name, colon, text = spec.partition(":")
    names = get_args(Method)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise InputError(f"there is no search method {name!r}; pass {' or '.join(near or names)}")
    places = method_options()
    for option in (part.partition("=")[0] for part in text.split(",")):
        if option not in places and (flag := _shared_flag(option)):
            raise InputError(
                f"{option} in {spec!r} is the same for all methods of a study; pass {flag}"
            )
    hints = {option: place.hint for option, place in places.items()}
    given: dict[str | None, dict[str, Any]] = {}
    for option, value in read_options(spec, name, text if colon else None, hints).items():
        place = places[option]
        given.setdefault(place.part, {})[place.field] = value
    return name, given  # type: ignore[return-value]  # it is one of the names


def _shared_flag(option: str) -> str:
    """The flag of what all methods share; empty for what is no such option."""
    name = {"epochs": "budget", "seed": "seeds", "method": "methods"}.get(option, option)
    known = SHARED | {f.name for f in fields(DataOptions)}
    return f"--{name.replace('_', '-')}" if name in known else ""


def search_of(config: NASStudyConfig, spec: str, budget: int, seed: int) -> SearchConfig:
    """The search of a method with one budget and seed, in its own folder.

    Raises:
        InputError: there is no such method or option, or a value does not fit.
    """
    name, given = read_method(spec)
    own = {f.name for f in fields(SearchConfig)}
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name in own}
    values |= {"epochs": budget, "seed": seed, "method": name, "resume": True}
    values["out"] = search_folder(config.out, spec, budget, seed)
    with _said_of(spec, given.get(None, {})):
        for part, options in given.items():
            if part is None:
                check_values(SearchConfig, options)
                values |= options
            else:
                before = values.get(part) or _default_of(part)
                check_values(type(before), options)
                values[part] = replace(before, **options)
        if name != "lease" and "audience" in given.get(None, {}):
            raise InputError(f"method {name} has no audience; leave out audience")
        return SearchConfig(**values)


def _default_of(part: str) -> Any:
    """What a part of a search's configuration is where nothing is given."""
    [factory] = [f.default_factory for f in fields(SearchConfig) if f.name == part]
    return factory()  # type: ignore[operator]  # all parts have one


@contextmanager
def _said_of(spec: str, own: Mapping[str, Any]) -> Iterator[None]:
    """Say which method cannot be, or which option of the study no method can use."""
    try:
        yield
    except OptionError as error:
        shared = "budget" if error.field == "epochs" else error.field
        if error.owner is SearchConfig and shared in SHARED and shared not in own:
            said = shared + str(error).removeprefix(error.field)
            raise OptionError(said, NASStudyConfig, shared) from error
        raise InputError(f"{spec}: {error}") from error
    except InputError as error:
        raise InputError(f"{spec}: {error}") from error


def search_folder(out: Path, spec: str, budget: int, seed: int) -> Path:
    """Folder of one search of a study.

    Example:
        >>> search_folder(Path("study"), "lease:share=1", 5, 0).as_posix()
        'study/searches/lease_share-1-epochs5-seed0'
    """
    return out / "searches" / run_name(f"{spec}-epochs{budget}", seed)


def retraining_of(config: NASStudyConfig, genotype: str, seed: int) -> RetrainConfig:
    """The training of a cell from scratch on all training images, scored on the test images.

    Searches that found the same cell share it.
    """
    assert config.retrain is not None, "nobody asks otherwise"
    cell = sha256(genotype.encode()).hexdigest()[:12]
    return RetrainConfig(
        data=replace(config.data, validation=0.0),
        genotype=genotype,
        training=TrainingOptions(epochs=config.retrain, batch_size=config.retrain_batch_size),
        device=DeviceOptions(accelerator=config.accelerator),
        init_channels=config.retrain_channels,
        cells=config.retrain_cells,
        form=config.form,
        seed=seed,
        out=config.out / "retrained" / run_name(cell, seed),
        resume=True,
    )


# Two spellings of one method would count as two.


DEFAULT_MODE = {"lease": "inner_product", "sanas": "inner_product", "darts2": "finite_difference"}
DEFAULT_PATH = {"lease": "full", "sanas": "no_explanation"}
"""What None stands for in the options of these methods."""


def _check_distinct(searches: Mapping[str, SearchConfig]) -> None:
    """Refuse two specs that search alike."""
    seen: dict[str, str] = {}
    for spec, search in searches.items():
        key = _identity(search)
        if key in seen:
            raise InputError(
                f"{seen[key]!r} and {spec!r} are one method with the same options; leave one out"
            )
        seen[key] = spec


def _identity(search: SearchConfig) -> str:
    """What a search depends on; options that its method does not look at are left out."""
    values = to_dict(search, leave_out=("out", "resume", "seed", "warmup_epochs"))
    if search.method in WITHOUT_SEARCH:
        return search.method
    options = values["options"]
    options["mode"] = search.options.mode or DEFAULT_MODE.get(search.method)
    options["gradient_path"] = search.options.gradient_path or DEFAULT_PATH.get(search.method)
    normalised = search.options.coupling == "normalised"
    unused = ["lambda_"] if normalised else ["share", "coupling_momentum"]
    if search.options.audience_inverse == "one_step":
        unused.append("neumann_terms")
    for name in unused:
        options.pop(name, None)
    if search.method == "random_search":
        values["rates"] = {k: v for k, v in values["rates"].items() if "architecture" not in k}
    else:
        values["resting_epochs"] = search.resting_epochs
    return json.dumps(values, sort_keys=True)
