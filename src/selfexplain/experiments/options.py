"""The options of a run, from which the command line is generated.

`TrainConfig` and `CompareConfig` are plain data: a new experiment is a function that takes one.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from selfexplain.errors import InputError
from selfexplain.files import shortened
from selfexplain.introspection.options import recorded_names
from selfexplain.launchers import LocalWorkers, RayCluster, Scheduler, Serial, Store, Stored
from selfexplain.lease import BaseOptions
from selfexplain.limits import (
    Count,
    Limits,
    Natural,
    NotNegative,
    OptionError,
    Seed,
    ShareBelowOne,
    check_once,
    check_options,
)
from selfexplain.objectives.options import PARTS, ObjectiveOptions, parts_of
from selfexplain.spaces import SPACES, load_genotype, to_string
from selfexplain.spaces.space import Form
from selfexplain.training import TrainingOptions
from selfexplain.training.loggers import LoggerName

# How the runs of a grid are spread over processes and machines.


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Where the runs of a grid happen; it changes none of their results.

    Raises:
        InputError: a value is out of its limits, or would not be looked at.

    Example:
        >>> SweepOptions(workers=2).isolated, SweepOptions().isolated
        (True, False)
    """

    workers: Count | None = None
    """Number of runs at a time, each in its own process; None for one after another in this
    process, or, on a cluster, as many as it has room for."""
    cluster: Literal["ray"] | None = None
    """ray to distribute the runs over a Ray cluster (requires the ray extra); None for this
    machine."""
    cluster_address: str | None = None
    """HOST:PORT of a Ray cluster, or auto for the one that this machine belongs to; None to start
    one on this machine, which is stopped when the command ends."""
    gpus_per_run: NotNegative | None = None
    """GPUs that each run on a cluster requests, for example 0.25 for four runs on one GPU; None for
    one if there are any."""
    cpus_per_run: Count | None = None
    """Cores that each run on a cluster requests, and its number of threads; None for one."""
    image_cache: Path | None = None
    """Folder in which decoded images are kept for these runs and for later commands, which then
    decode nothing. None: runs in processes of their own share a folder in --out until all are
    finished."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, and what would be ignored."""
        check_options(self)
        if self.cluster is None:
            for name in ("cluster_address", "gpus_per_run", "cpus_per_run"):
                if getattr(self, name) is not None:
                    flag = "--" + name.replace("_", "-")
                    raise InputError(f"{flag} is for clusters; pass --cluster ray, or leave it out")

    @property
    def isolated(self) -> bool:
        """Whether runs have processes of their own."""
        return self.cluster is not None or (self.workers or 1) > 1


def scheduler_of(options: SweepOptions, store: Store | None = None) -> Scheduler:
    """The scheduler that the options ask for; of runs that go to a store, if there is one.

    Raises:
        InputError: this machine lacks what it takes, or a launcher has started several processes
            for one run.

    Example:
        >>> scheduler_of(SweepOptions(workers=1)).isolated
        False
    """
    if options.isolated and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a launcher has started this command in several processes, which train one run "
            "together; leave out --workers and --cluster, or the launcher"
        )
    if store is not None:
        return Stored(store, _scheduler(options, shared_folder=False))
    return _scheduler(options)


def _scheduler(options: SweepOptions, *, shared_folder: bool = True) -> Scheduler:
    if options.cluster == "ray":
        return RayCluster(
            options.cluster_address,
            workers=options.workers,
            gpus_per_run=options.gpus_per_run,
            cpus_per_run=options.cpus_per_run or 1,
            shared_folder=shared_folder,
        )
    if options.isolated:
        return LocalWorkers(options.workers or 1)
    return Serial()


LARGEST_SIDE = 16_384
"""Pixels; no image is made larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Which images to use, and how to augment them in training."""

    data: str
    """digits | parquet:DIR | hub:NAME | folder:DIR | your own package.module:Name."""
    image_column: str | None = None
    """Column of the images in a table; None to find it."""
    label_column: str | None = None
    """Column of the labels in a table; None to find it."""
    image_size: Annotated[int, Limits(least=1, most=LARGEST_SIDE)] | None = None
    """Side in pixels to resize and centre-crop to; None to keep the images' own size."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; None for grey if all images are grey, and RGB if not."""
    skip_broken: bool = False
    """Skip images that cannot be decoded instead of stopping."""
    train_size: Count | None = None
    """Train on only this many images, drawn with the seed and in proportion to the classes; None
    for all."""
    test_size: Count | None = None
    """Test on only this many test images, in proportion to the classes and the same for all seeds;
    None for all."""
    validation: ShareBelowOne = 0.0
    """Fraction of the training images to hold out as a validation split, drawn with the seed and
    scored instead of the test images, to choose options. 0 scores on the test images."""
    crop_padding: Annotated[int, Limits(least=0, most=LARGEST_SIDE)] | None = None
    """Width in pixels of the black border added before random crops; None for an eighth of the
    side."""
    flip: bool | None = None
    """Flip images horizontally with probability 1/2; None for yes, except for digits."""
    alternate_flip: bool = False
    """Flip each image in every second epoch instead of at random; for short trainings, in which
    chance would show some images only one way. Digits too, if it is given."""
    cutout: Natural = 0
    """Side in pixels of a black square at a random position on each image; 0 for none."""
    augment: Literal["none", "trivial", "rand"] = "none"
    """Further augmentation, after crop and flip: trivial (TrivialAugment, one random operation of
    random strength per image), rand (RandAugment, two operations), or none."""
    balanced: bool = False
    """Draw training images with replacement so that every class is equally likely, for classes of
    very different sizes."""
    workers: Annotated[int, tyro.conf.arg(name="loader-workers"), Limits(least=0, most=1024)] = 2
    """Number of processes in each run that decode images, for data too large for memory."""

    def __post_init__(self) -> None:
        """Refuse values that no data set can have, and flips that contradict each other."""
        check_options(self)
        if self.alternate_flip and self.flip is False:
            said = "alternate_flip flips images, and flip is False; leave out one of them"
            raise OptionError(said, DataOptions, "alternate_flip")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """Where a run happens."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto uses a GPU if there is one."""
    devices: Annotated[int, Limits(least=1, most=4096)] = 1
    """Number of devices, with one process each. Under torchrun, the number of processes that it
    started."""

    def __post_init__(self) -> None:
        """Refuse less than one device."""
        check_options(self)


EXCLUDED_FROM_RUN_ID = ("sweep", "loggers", "finished_only")
"""Options that change no result, and that no configuration in a folder tells of."""
AUTO_DIR = Path("runs/NAME")
"""Stands for a folder that is named after the configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedConfig:
    """What trainings of one model and of several have in common."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    out: Path = AUTO_DIR
    """Folder for the results, of compare and study-kd also a URL (s3://BUCKET/NAME); by default one
    in runs/ named after the configuration, so that the same command uses the same folder again."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrainingOptions
    )
    device: Annotated[DeviceOptions, tyro.conf.arg(name="")] = field(default_factory=DeviceOptions)
    options: Annotated[ObjectiveOptions, tyro.conf.arg(name="")] = field(
        default_factory=ObjectiveOptions
    )
    teacher: Path | None = None
    """Folder of a finished run whose model is the teacher, for objectives that have one; None to
    train one first, with the same model, seed and options."""
    loggers: tuple[LoggerName, ...] = ()
    """Also log metrics, configuration and final scores to tensorboard, wandb (Weights & Biases) or
    mlflow; each requires the extra of the same name."""
    score_every_epoch: bool = False
    """Also score the model after every epoch, for curves; the result is always the last epoch's."""
    robustness: bool = False
    """Also score the last epoch's model on corrupted images: noise, blur and less contrast, at
    three severities each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(SharedConfig):
    """What every training of one model has in common; its kinds say which model."""

    objective: str = "introspective"
    """standard | label_smoothing | confidence_penalty | introspective | own_mass | zipf | ols |
    cs_kd | ps_kd | dlb | tf_kd | byot | dense_places | dml | kd | dkd | born_again |
    saliency_guided | cgc | icasc | lsx, with its options after a colon:
    introspective:weight=0.1,control=permuted. Your own is package.module:Class. mixup+ or cutmix+
    before it mixes its images: mixup:alpha=0.5+standard."""
    seed: Seed = 0
    """Seed of weights, batches and splits."""
    start_seed: Seed | None = None
    """Separate seed of weights and batches, to vary them with the same splits; None for --seed."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, if there is one."""

    @property
    def start(self) -> int:
        """Seed of weights and batches."""
        return self.seed if self.start_seed is None else self.start_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(RunConfig):
    """Train one model."""

    model: str = "small_cnn"
    """small_cnn | resnet20 | resnet32 | resnet56 | resnet18 | wrn16_2 | wrn28_10 | fast_cnn |
    efficientnet_lite0 (or 1, 2) | timm:NAME | hf:NAME | package.module:factory."""
    pretrained: bool = False
    """Start from published weights, with a new head unless the classes are as many, and normalise
    images as they want: of efficientnet_lite0 (requires the pretrained extra), timm:NAME (of timm,
    or hf-hub:NAME, or local-dir:DIR) or hf:NAME (of transformers; or a folder)."""

    def __post_init__(self) -> None:
        """Refuse a seed that no generator takes; name the folder."""
        check_options(self)
        check_once(self, "loggers")
        check_validated(self)
        name_folder(self, "train", self.model)


PHOTOS_UNSET = "PHOTOS"
"""Stands for data that are given in another way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(RunConfig):
    """Fine-tune a pretrained network on a folder of photographs, and write a page about it.

    First the head learns alone, on features that are computed once; then all layers learn, those
    before the head slowly. The run is one of `train`: `explain`, `app`, `report` and `export` read
    it.
    """

    photos: tyro.conf.Positional[str | None] = None
    """Folder with a folder of photographs for each class (a fifth of each is held out for the
    score), or with the folders train and test of such folders. Or pass --data."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: DataOptions(data=PHOTOS_UNSET, image_size=128)
    )
    objective: str = "standard"
    """What is minimised, as for `train`. Of seven, standard training had the highest mean accuracy
    on photographs, though not significantly (results/targets)."""
    model: str = "efficientnet_lite0"
    """Pretrained network: efficientnet_lite0 (requires the pretrained extra), timm:NAME or
    hf:NAME."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainingOptions(
            epochs=5,
            batch_size=32,
            optimizer="adamw",
            freeze_norm=True,
            head_epochs=30,
            body_lr=0.1,
        )
    )
    open: bool = False
    """Show the page in the browser when it is written."""

    def __post_init__(self) -> None:
        """Refuse data twice or not at all; name the folder as `train` would."""
        check_options(self)
        given = self.data.data != PHOTOS_UNSET
        if self.photos is not None and given:
            raise InputError("both a folder of photographs and --data are given; pass one of them")
        if self.photos is None and not given:
            raise InputError(
                "there is nothing to learn from; pass a folder that holds a folder of photographs "
                "for each class, or --data"
            )
        if self.photos is not None:
            object.__setattr__(self, "data", replace(self.data, data=f"folder:{self.photos}"))
        object.__setattr__(self, "out", self.as_training().out)

    def as_training(self) -> TrainConfig:
        """The same run as a configuration of `train`."""
        shared = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        return TrainConfig(**shared, model=self.model, pretrained=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig(SharedConfig):
    """Train one model with several objectives and seeds, and compare the objectives.

    Repeating the command continues an interrupted comparison; objectives and seeds may be added.
    """

    URLS: ClassVar = ("out",)
    model: str = "small_cnn"
    """small_cnn | resnet20 | resnet32 | resnet56 | resnet18 | wrn16_2 | wrn28_10 | fast_cnn |
    efficientnet_lite0 (or 1, 2) | timm:NAME | hf:NAME | package.module:factory."""
    pretrained: bool = False
    """Start from published weights, with a new head unless the classes are as many, and normalise
    images as they want: of efficientnet_lite0 (requires the pretrained extra), timm:NAME (of timm,
    or hf-hub:NAME, or local-dir:DIR) or hf:NAME (of transformers; or a folder)."""
    objectives: tuple[str, ...] = ("standard", "label_smoothing", "introspective")
    """Objectives to compare, named as for train; differences are taken against the first. Options
    may follow a colon: introspective:control=permuted. Images may be mixed: mixup+standard.
    Your own is package.module:Class."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds; every objective is trained with each of them."""
    tune: Count | None = None
    """Before the seeds are run, try this many settings of each objective that has tunable options,
    and use the best. Trials are scored on a validation split of the training images (--validation,
    0.1 if not given); the seeds then train on all training images."""
    tuner: Literal["random", "optuna"] = "random"
    """How settings after the first one, the published one, are chosen: sampled at random, or
    proposed by Optuna (requires the tune extra)."""
    finished_only: bool = False
    """Train nothing, and make the table from the finished runs in --out. It lists the missing runs.
    Cannot be combined with --tune."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        """Refuse a comparison of nothing, and a tuning of nothing."""
        check_options(self)
        check_once(self, "loggers")
        check_validated(self)
        if self.finished_only and self.tune is not None:
            raise OptionError(
                "finished_only makes no table of a tuned comparison; leave out --finished-only, "
                "and the comparison goes on",
                CompareConfig,
                "finished_only",
            )
        if self.tune is None and self.tuner != "random":
            said = f"tuner is {self.tuner}, but nothing is tuned; pass --tune too"
            raise OptionError(said, CompareConfig, "tuner")
        for name, values in {"objectives": self.objectives, "seeds": self.seeds}.items():
            if not values:
                raise OptionError(f"{name} is empty; pass at least one", CompareConfig, name)
            check_once(self, name)
        if self.sweep.isolated and self.device.devices > 1:
            raise OptionError(
                f"devices is {self.device.devices}, and such a run has processes of its own; "
                "pass --workers 1, or --devices 1",
                DeviceOptions,
                "devices",
            )
        name_folder(self, "compare", self.model, free=("objectives", "seeds"))


def check_validated(config: SharedConfig) -> None:
    """Refuse to choose an epoch on the test images, and what a head alone cannot do.

    Raises:
        InputError: epochs are to be chosen and nothing is held out; or a head alone is averaged.
    """
    training = config.training
    for name, asked in {"keep_best": training.keep_best, "patience": training.patience}.items():
        if asked and not config.data.validation:
            raise OptionError(
                f"{name} chooses an epoch by its accuracy, which must not be the test images'; "
                "pass --validation 0.1 too",
                TrainingOptions,
                name,
            )
    if training.freeze == "all" and training.ema:
        raise OptionError(
            "freeze is all, and an average of a head's weights is not kept; leave out --ema",
            TrainingOptions,
            "freeze",
        )


def name_folder(config: Any, *words: str, free: tuple[str, ...] = ()) -> None:
    """Give a configuration without a folder one whose name says what it is.

    Args:
        config: a dataclass with `data` and `out`.
        words: with which the name begins.
        free: fields that may change without another folder.
    """
    if config.out != AUTO_DIR:
        return
    text = json.dumps(to_dict(config, leave_out=("out", "resume", *free)), sort_keys=True)
    data = Path(config.data.data.partition(":")[2] or config.data.data).name
    command, *rest = (re.sub(r"[:/\0]", "_", word) for word in words)
    name = "-".join((command, data, *rest, sha256(text.encode()).hexdigest()[:8]))
    object.__setattr__(config, "out", Path("runs") / shortened(name))


def run_name(spec: str, seed: int) -> str:
    """Name of the folder of one run among several, short enough for every file system."""
    name = re.sub(r"[^\w.+-]+", "_", spec.replace("=", "-"))
    return shortened(f"{name}-seed{seed}")


def to_dict(config: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration as JSON would give it back: dictionaries, lists, strings, numbers.

    Of the options of objectives only those of the objectives in use are kept, so that a run's
    configuration stays what it was when the library learns another objective. How runs are spread
    over processes (`sweep`) and where else it is logged (`loggers`) are left out: they change no
    result.
    """
    values = asdict(config)
    if isinstance(config, SharedConfig):  # runs without stay what they were when this was a flag
        values["tensorboard"] = False
    else:  # a search, or a study of searches
        values = _without_later(values, {"form": "small"})
    values = {k: v for k, v in values.items() if k not in (*leave_out, *EXCLUDED_FROM_RUN_ID)}
    # Runs without stay what they were before these came.
    values = _without_later(values, {"teacher": None, "start_seed": None, "pretrained": False})
    if "data" in values:
        values["data"] = _without_later(values["data"], _LATER_DATA)
    if "training" in values:
        values["training"] = _training_dict(config.training)
    specs = getattr(config, "objectives", None) or [getattr(config, "objective", None)]
    if "options" in values and specs != [None]:
        used = {part.partition(":")[0] for spec in specs for part in parts_of(spec)}
        values["options"] = {
            k: recorded_names(_without_later(v, _LATER_OBJECTIVES.get(k, {})))
            for k, v in values["options"].items()
            if k in used
        }
    elif "options" in values:  # of a search
        values["options"] = _without_later(values["options"], _LATER_LEASE)
        if "base" in values:
            values["base"] = _without_later(values["base"], asdict(BaseOptions()))
        values = _without_later(values, _LATER_SEARCH)
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return result


_LATER_DATA = {"augment": "none", "balanced": False, "alternate_flip": False, "test_size": None}
_LATER_OBJECTIVES: dict[str, dict[str, Any]] = {
    "own_mass": {
        "kind": "cam", "layer": None, "similarity": None, "aggregation": "instance", "guard": False,
        "rho": 1.0, "mass_from": "last_epoch", "average_decay": 0.99, "mirror": True,
    },
    "cutmix": {"labels": "area"},
}  # fmt: skip
_LATER_SEARCH = {
    "base": {}, "validation_labels": "true", "precision": "fp32", "cuda_graph": False,
    "candidates": 5,
}  # fmt: skip
_LATER_LEASE = {
    "coupling": "weighted", "share": 1.0, "coupling_momentum": 0.9, "explanation": "attack",
    "tau": 0.5, "audience_inverse": "one_step", "neumann_terms": 10,
}  # fmt: skip
"""Options that later versions brought, with what runs had before."""


def _training_dict(options: TrainingOptions) -> dict[str, Any]:
    """The options of a training as a run's record holds them, with the rates that it has."""
    values = asdict(options)
    values |= {"lr": options.largest_lr, "weight_decay": options.used_weight_decay}
    # A run without what later versions brought stays what it was.
    later = {
        "compile": False, "cuda_graph": False, "optimizer": "sgd", "decay_vectors": True,
        "freeze": None, "freeze_norm": False, "head_epochs": 0, "body_lr": 1.0, "layer_decay": 1.0,
        "keep_best": False, "patience": 0, "sync_batchnorm": False,
    }  # fmt: skip
    return _without_later(values, later)


def _without_later(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that a later version brought and that are what runs had before."""
    return {k: v for k, v in values.items() if k not in later or v != later[k]}


# Which processes take part in a run: those that torchrun started, or those that the run starts.


def devices_and_machines(device: DeviceOptions) -> tuple[int, int]:
    """Devices of each machine, one process each, and the number of machines.

    Where torchrun started the processes, both are its numbers.

    Raises:
        InputError: `devices` contradicts torchrun, or the machines have unequal numbers of them.

    Example:
        >>> devices_and_machines(DeviceOptions(devices=4))
        (4, 1)
    """
    if not started_by_torchrun():
        return device.devices, 1
    here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if device.devices not in (1, here):
        raise InputError(
            f"torchrun started {here} process(es) on this machine, one for each device, but "
            f"devices is {device.devices}; leave out --devices, or start as many"
        )
    if everywhere % here:
        raise InputError(
            f"torchrun started {here} process(es) on this machine and {everywhere} on all; start "
            "as many on each machine"
        )
    return here, everywhere // here


def process_count(device: DeviceOptions) -> int:
    """Number of processes of a run, on all machines.

    Example:
        >>> process_count(DeviceOptions(devices=2))
        2
    """
    devices, machines = devices_and_machines(device)
    return devices * machines


def started_by_torchrun() -> bool:
    """Whether torchrun started this process.

    Example:
        >>> started_by_torchrun()
        False
    """
    # What torch.distributed.is_torchelastic_launched looks at, without its seconds of import.
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_process() -> bool:
    """Whether this is the process that speaks and writes; launchers number the processes.

    torchrun numbers those of all machines in RANK; ours, on one machine, in LOCAL_RANK alone.

    Example:
        >>> first_process()
        True
    """
    rank = "RANK" if started_by_torchrun() else "LOCAL_RANK"
    return int(os.environ.get(rank, "0")) == 0


# The options of retraining, from which the command line is generated.


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig(RunConfig):
    """Train the network of a genotype from scratch.

    The run stores the genotype itself, in its benchmark's notation, and not the path of its file:
    it is the same run wherever the file is.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> config = RetrainConfig(
        ...     data=DataOptions(data="digits"), genotype="published:DARTS_V2", auxiliary=0.4
        ... )
        >>> config.genotype[:40]
        "Genotype(normal=[('sep_conv_3x3', 0), ('"
    """

    genotype: str
    """File of a genotype (a search writes genotype.json), published:NAME, or the genotype as its
    benchmark writes it: |op~0|+|op~0|op~1|+... or Genotype(normal=[...], ...)."""
    objective: str = "standard"
    """standard | label_smoothing | confidence_penalty | introspective, or any other of train, with
    options of its own after a colon if you like: introspective:weight=0.1,control=permuted."""
    init_channels: Annotated[int, Limits(least=1, most=4096)] | None = None
    """Channels of the first cells; None for the published ones: darts 36, and 48 in the imagenet
    form; nasbench201 16."""
    cells: Annotated[int, Limits(least=1, most=500)] | None = None
    """Cells of the network (darts; None for 20, and 14 in the imagenet form), or of each of its
    three stages (nasbench201; None for 5)."""
    form: Form = "small"
    """small for images of about 32 pixels; imagenet (darts alone) starts with three convolutions of
    stride 2."""
    auxiliary: NotNegative = 0.0
    """Weight of the cross-entropy of a second head at two thirds of the depth (darts alone; 0.4 as
    published); 0 for no such head."""
    drop_path: ShareBelowOne = 0.0
    """Probability that an operation is left out for an image, in the last epochs; it grows linearly
    from 0 (published for darts: 0.2 to 0.3)."""

    def __post_init__(self) -> None:
        """Take the genotype in; refuse what cannot be trained; name the folder."""
        check_options(self)
        check_once(self, "loggers")
        genotype = load_genotype(self.genotype)
        object.__setattr__(self, "genotype", to_string(genotype))
        _check_family(self, genotype.family)
        if self.auxiliary and self.training.batch_size // process_count(self.device) < 2:
            raise InputError(
                "the auxiliary head normalises over the images of a step on each device; "
                "pass a --batch-size of at least 2 for each"
            )
        name_folder(self, "retrain", genotype.family)


def _check_family(config: RetrainConfig, family: str) -> None:
    """Refuse what the networks of a family lack."""
    space = SPACES[family]
    if lacking := space.lacking(config.form, bool(config.auxiliary)):
        raise InputError(f"{lacking}; pass --form small and --auxiliary 0")
    if config.init_channels is not None and config.init_channels % space.channel_unit:
        number = (
            "an even number" if space.channel_unit == 2 else f"a multiple of {space.channel_unit}"
        )
        raise InputError(
            f"init_channels is {config.init_channels}; pass {number} for a {family} genotype"
        )


# The options of study-kd.


PLAIN, FULL = "standard", "distil_part"


def part_spec(part: str) -> str:
    """Spec of the student of a part.

    Example:
        >>> part_spec("full"), part_spec("similarity")
        ('distil_part', 'distil_part:part=similarity')
    """
    return FULL if part == "full" else f"{FULL}:part={part}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyKDConfig(CompareConfig):
    """Find which part of a teacher's output carries the gain of distillation.

    Trains a teacher for each seed, or uses the one given, then students on its full output and on
    parts of it, and reports each part's share of the full output's gain over standard training.
    Repeating the command continues an interrupted study; seeds may be added.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> config = StudyKDConfig(data=DataOptions(data="digits"))
        >>> config.objectives[:3]
        ('standard', 'distil_part', 'distil_part:part=true_only')
    """

    objectives: tuple[str, ...] = (PLAIN, *(part_spec(part) for part in PARTS))
    """Plain training, students of all of the teacher's output, and of parts of it. The first two
    must stay; others may be left out or added."""
    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainingOptions(epochs=10)
    )

    def __post_init__(self) -> None:
        """Refuse a study without the two that the others are measured by; name the folder."""
        if self.objectives[:2] != (PLAIN, FULL):
            raise InputError(
                f"objectives are {' '.join(self.objectives)}; pass {PLAIN} {FULL} first, since "
                "gains are over the first and shares are of the second"
            )
        if self.options.distil_part.part != "full":
            raise InputError(
                f"part is {self.options.distil_part.part}; leave out --distil-part.part, the "
                "study goes through all parts"
            )
        name_folder(self, "study-kd", self.model, free=("objectives", "seeds"))
        CompareConfig.__post_init__(self)
