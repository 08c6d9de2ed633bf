"""The run folder of a training whose loop is somebody else's: `Recorder`.

It holds the files that `selfexplain train` writes, written by the same functions, so that whatever
reads the one reads the other. What the record says of the training is what its loop has told.

Shape suffixes: B batch, N images, C channels, H and W space, K classes.
"""

import inspect
import io
import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from selfexplain.data import Augmentation, MemoryImages
from selfexplain.data.batches import read_batch
from selfexplain.distributed import exists_for_all, gathered, rank, world_size
from selfexplain.errors import BrokenOffError, InputError, first_line
from selfexplain.evaluation import score
from selfexplain.experiments.data import (
    Prepared,
    load,
    predict_together,
    prepare,
)
from selfexplain.experiments.fit.model import check_model, logits_of_blanks
from selfexplain.experiments.fit.snapshots import SnapshotWriter, open_snapshots
from selfexplain.experiments.objectives import OBJECTIVES, is_own_objective, resolve
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.read_records import MOST_METRICS, read_result
from selfexplain.experiments.run_dir import (
    check_same_config,
    check_tensors,
    claim,
    holds_run,
    images_of,
    locked,
    saved_config,
    write_outcome,
    write_saved_run,
)
from selfexplain.files import DIGEST, read_json
from selfexplain.introspection.options import recorded_names
from selfexplain.limits import check_path
from selfexplain.models.build import BUILT_IN, build_model, check_model_name
from selfexplain.objectives import Objective, Standard
from selfexplain.objectives.options import MIXER_CLASSES, ObjectiveOptions, parts_of
from selfexplain.objectives.shared.base import Wrapper
from selfexplain.training.checkpoint import (
    FORMAT,
    check_identity,
    epochs_done,
    load_checkpoint,
    loading_from,
    save_checkpoint,
)
from selfexplain.training.log import EpochLog

OWN_IMAGES = "images of its own loop"
"""What a record calls data that were given as images, and not by the name of a data set."""
MOST_BYTES = 2 * 2**30
"""Of evaluation images that are kept in memory."""


# The images that a run is scored on, as its own loop reads them.


def images_from(
    data: Any, *, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[MemoryImages, Tensor, Tensor]:
    """Images as pixels, with the mean and standard deviation (C,) that bring them to the model.

    Args:
        data: a `DataLoader`, or other batches that `read_batch` takes; a data set of single
            images; or a pair of tensors, images (N, C, H, W) and labels (N,). Images of uint8 are
            pixels; others are as the model takes them, and become pixels again.
        mean: of the channels, that was subtracted from images in [0, 1]; None for 0.
        std: by which they were divided; None for 1.

    Raises:
        InputError: there are no images or labels, or, without mean and std, they do not lie in
            [0, 1].

    Example:
        >>> images, mean_C, std_C = images_from(
        ...     [(torch.tensor([[[[-1.0, 1.0]]]]), torch.tensor([3]))], mean=[0.5], std=[0.5]
        ... )
        >>> images.images_NCHW.tolist(), images.labels_N.tolist()
        ([[[[0, 255]]]], [3])
    """
    pixels, labels, held = [], [], 0
    mean_C, std_C = torch.empty(0), torch.empty(0)
    for batch in _batches(data):
        x_BCHW, y_B = read_batch(batch).arguments(indices=False)[:2]
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (1, 3):
            raise InputError(
                f"the evaluation images are a batch of shape {tuple(x_BCHW.shape)}; pass images "
                "(B, C, H, W), grey with C = 1 or in colour with C = 3"
            )
        mean_C = of_channels("mean", mean, 0.0, x_BCHW.shape[1])
        std_C = of_channels("std", std, 1.0, x_BCHW.shape[1])
        pixels.append(_pixels(x_BCHW.detach().cpu(), mean_C, std_C))
        labels.append((y_B if y_B.ndim == 1 else y_B.argmax(dim=1)).detach().cpu().long())
        held += pixels[-1].numel()
        if held > MOST_BYTES:
            raise InputError(
                f"the evaluation images take more than {MOST_BYTES // 2**30} GiB; pass fewer, "
                "such as torch.utils.data.Subset(data, range(5000)), or the name of a data set"
            )
    if not pixels:
        raise InputError("there are no evaluation images; pass data that has some")
    sizes = {tuple(each.shape[1:]) for each in pixels}
    if len(sizes) > 1:
        raise InputError(
            f"the evaluation images are of shapes {' and '.join(map(str, sorted(sizes)[:2]))}; "
            "pass images of one shape"
        )
    return MemoryImages(torch.cat(pixels), torch.cat(labels)), mean_C, std_C


def _batches(data: Any) -> Iterable[Any]:
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if pair and all(isinstance(each, Tensor) for each in data) and data[0].ndim == 4:
        return [tuple(data)]
    if hasattr(data, "__getitem__") and not isinstance(data, (tuple, list, Mapping)):
        return DataLoader(data, batch_size=100)
    if isinstance(data, Mapping):
        return [data]
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}; pass the name of a data set, such as 'digits' or "
            "'folder:pets', or a DataLoader of the images that the model is scored on"
        )
    return data


def of_channels(
    name: str, values: Sequence[float] | None, otherwise: float, channels: int
) -> Tensor:
    """One number for each channel, (C,), of one or of C given ones, or the same for all."""
    if values is None:
        return torch.full((channels,), otherwise)
    found = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
    if len(found) not in (1, channels) or not bool(found.isfinite().all()):
        raise InputError(
            f"{name} is {list(map(float, found))} for images of {channels} channel(s); pass a "
            "finite number for each"
        )
    if name == "std" and bool((found <= 0).any()):
        raise InputError(f"std is {list(map(float, found))}; pass numbers above 0")
    return found.expand(channels).clone()


def _pixels(x_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Images as uint8 pixels."""
    if x_BCHW.dtype == torch.uint8:
        return x_BCHW
    levels = x_BCHW.float() * std_C[:, None, None] + mean_C[:, None, None]
    low, high = float(levels.min()), float(levels.max())
    # a little more than rounding leaves: interpolated images may overshoot
    if not (low >= -0.02 and high <= 1.02):
        raise InputError(
            f"the evaluation images, times std and plus mean, go from {low:.3g} to {high:.3g} and "
            "must lie in [0, 1]; pass the mean= and std= that the loop normalises images by"
        )
    return (255 * levels).round().clamp(0, 255).to(torch.uint8)


# How a model is called, so that whoever reads the record can build it again.


def name_of_model(
    model: nn.Module, factory: str | None, *, num_classes: int, in_channels: int
) -> str:
    """The name by which `build_model` builds a model of the same weights.

    Args:
        model: any.
        factory: the name, if the user gives one; None to find it: of a built-in network, of one of
            timm, or of a class that is called with num_classes and in_channels.
        num_classes: number of classes K.
        in_channels: channels C of the images.

    Raises:
        InputError: no name builds such a model.

    Example:
        >>> model = build_model("resnet20", num_classes=3, in_channels=1)
        >>> name_of_model(model, None, num_classes=3, in_channels=1)
        'resnet20'
    """
    if factory is not None:
        check_model_name(factory)
        built = built_aside(factory, num_classes=num_classes, in_channels=in_channels)
        if found := misfits(shapes_of(model), shapes_of(built)):
            raise InputError(
                f"the model that {factory} builds is not the one that is recorded ({found}); pass "
                "factory='package.module:function', which builds it when it is called with "
                f"num_classes={num_classes}, in_channels={in_channels}"
            )
        return factory
    for name in _names_perhaps(model):
        try:
            built = built_aside(name, num_classes=num_classes, in_channels=in_channels)
        except InputError:
            continue
        if type(built) is type(model) and not misfits(shapes_of(model), shapes_of(built)):
            return name
    raise InputError(
        f"explain, app and export have to build the {type(model).__name__} again, and it is not "
        "known how; pass factory='package.module:function', which builds it when it is called "
        f"with num_classes={num_classes}, in_channels={in_channels}"
    )


def _names_perhaps(model: nn.Module) -> Iterator[str]:
    kind = type(model)
    if kind.__module__.startswith("selfexplain.models"):
        yield from BUILT_IN
    described = getattr(model, "pretrained_cfg", None)
    if kind.__module__.startswith("timm.") and isinstance(described, Mapping):
        yield f"timm:{described.get('architecture')}"
    # what a script or a function defines, nobody else can import
    if kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__:
        takes = inspect.signature(kind).parameters
        if {"num_classes", "in_channels"} <= takes.keys():
            yield f"{kind.__module__}:{kind.__qualname__}"


def built_aside(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """A model that is built to be looked at: no generator moves; one built in takes no memory."""
    place = torch.device("meta") if name in BUILT_IN else nullcontext()
    with place, torch.random.fork_rng(devices=[]):
        return build_model(name, num_classes=num_classes, in_channels=in_channels)


Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights and buffers."""
    return {name: tuple(each.shape) for name, each in model.state_dict().items()}


def misfits(given: Shapes, wanted: Shapes, most: int = 3) -> str:
    """In words, which weights a model lacks, which it does not have, which are of other shapes.

    Args:
        given: of a file, or of a model: name -> shape.
        wanted: of the model that they are for.
        most: names that are said of each kind.

    Returns:
        Nothing if all fit.

    Example:
        >>> misfits({"a": (2,), "c": (1,)}, {"a": (3,), "b": (1,)})
        'missing: b; unknown: c; of another shape: a (2,) in place of (3,)'
    """
    both = given.keys() & wanted.keys()
    found = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {given[name]} in place of {wanted[name]}"
            for name in wanted
            if name in both and given[name] != wanted[name]
        ],
    }
    return "; ".join(
        f"{kind}: {', '.join(names[:most])}"
        + (f" and {len(names) - most} more" if len(names) > most else "")
        for kind, names in found.items()
        if names
    )


# What is minimised, as a record says it.


def spec_of(objective: Objective | str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Name of an objective, with mixers before it, and the options of each of its parts.

    Args:
        objective: any; or the name of what another loop minimises: the spec of an objective that
            there is, or a word of one's own, such as "focal".

    Raises:
        InputError: it is neither.

    Example:
        >>> from selfexplain.objectives import LabelSmoothing
        >>> spec_of(LabelSmoothing(nn.Linear(2, 3), smoothing=0.2))
        ('label_smoothing', {'label_smoothing': {'smoothing': 0.2}})
        >>> spec_of("focal")
        ('focal', {})
    """
    if isinstance(objective, str):
        if not objective.isidentifier():
            resolve(objective, ObjectiveOptions())
        if parts_of(objective)[-1].partition(":")[0] == "introspective":
            raise InputError(
                f"objective is the name {objective}; pass the objective itself, whose state the "
                "record keeps: objective=Introspective(model)"
            )
        return objective, {}
    if not isinstance(objective, Objective):
        raise InputError(
            f"objective is a {type(objective).__name__}; pass an objective of selfexplain, or a "
            "word for what your loop minimises, such as 'cross_entropy'"
        )
    kind = type(objective)
    # of a class inside a function, whose place is no name, the class's own
    place = f"{kind.__module__}:{kind.__qualname__}"
    place = place if is_own_objective(place) else kind.__name__
    names = {f"{each.__module__}:{each.__qualname__}": n for n, each in OBJECTIVES.items()}
    mixers = {path.rpartition(":")[2]: name for name, path in MIXER_CLASSES.items()}
    if isinstance(objective, Wrapper):
        inner, options = spec_of(objective.objective)
        if kind.__name__ not in mixers:
            return inner, options
        name = mixers[kind.__name__]
        return f"{name}+{inner}", {**options, **_options_of(name, objective)}
    name = names.get(place, place)
    return name, _options_of(name, objective)


def _options_of(name: str, objective: Objective) -> dict[str, dict[str, Any]]:
    declared = getattr(ObjectiveOptions(), name, None)
    if declared is None:
        return {}
    own = getattr(objective, "options", None)
    if isinstance(own, type(declared)):
        return {name: recorded_names(asdict(own))}
    # An objective need not keep each of its options: what it does not say is left out.
    plain = {
        option: value
        for option in asdict(declared)
        for value in (getattr(objective, option, None), getattr(own, option, None))
        if isinstance(value, bool | int | float | str)
    }
    return {name: recorded_names(plain)}


# What messages say to those who call, and not to those at the command line.


IN_PYTHON = {
    "another --out": "another folder",
    "pass --out with a folder": "pass a folder",
    "the options it was made with": "the arguments it was made with",
    "with other options": "with other arguments",
    "the same command with --resume": "the same recorder",
    "pass a model for such images, or --channels and --image-size": "pass a model for such images",
}
"""What messages of run folders say to those at the command line -> to those who call."""


@contextmanager
def said_in_python() -> Iterator[None]:
    """Let messages about a folder name arguments, where they would name flags.

    Example:
        >>> with said_in_python():
        ...     raise InputError("a is full; pass another --out")
        Traceback (most recent call last):
        selfexplain.errors.InputError: a is full; pass another folder
    """
    try:
        yield
    except InputError as error:
        _say_in_python(error)
        raise


def _say_in_python(error: BaseException | None) -> None:
    if isinstance(error, InputError):
        error.args = tuple(map(_in_python, error.args))
    if isinstance(error, BrokenOffError) and error.kept is not None:
        error.kept = _in_python(error.kept)


def _in_python(said: object) -> str:
    text = str(said)
    for flag, argument in IN_PYTHON.items():
        text = text.replace(flag, argument)
    return text


# The recorder.


class HasState(Protocol):
    """An optimizer, a schedule, a scaler, an average: what a checkpoint keeps."""

    def state_dict(self) -> Any:
        """Tensors, numbers and strings."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take them back."""


class Recorder:
    """Writes the run folder of a training in a loop of your own.

    `report`, `app`, `explain` and `export` read it as one of `selfexplain train`. After
    each epoch it holds the metrics, a checkpoint, and what the model explains of a few images;
    when the block ends, scores, predictions, similar classes and the weights. With the same
    folder and arguments again, the training continues after its last epoch: weights and `state`
    are loaded, and `epochs_done` says where it stopped.

    In several processes (torch.distributed) each makes one, and the first writes.

    Args:
        folder: of the run; new, or of this very run.
        model: maps images (B, C, H, W) to logits (B, K); the one that is trained.
        data: what it is scored on: the name of a data set as for `selfexplain train` ("digits",
            "folder:pets") or its `DataOptions`, or images as `images_from` takes them, such as the
            loader of your validation.
        objective: that is trained, around the model; or a word for what is minimised.
        epochs: how many are planned; None if that is not known.
        factory: name of what builds the model (`package.module:function`, called with num_classes
            and in_channels); None to find it, as `name_of_model` does.
        class_names: of the K classes, for data given as images; None for their numbers.
        mean: of the channels, by which images in [0, 1] are normalised for the model; None for 0
            with images, and with a data set for that of its training images.
        std: the same of the standard deviation; None for 1.
        evaluated: the model whose scores count, such as an average of weights; None for the model.
        state: what else a checkpoint keeps, by name: {"optimizer": optimizer}.
        hyperparameters: further numbers and words for the record, such as {"lr": 0.1}.
        seed: of the training, for the record.
        resumed_after: for loops whose own library restores weights: so many epochs are done, and
            nothing is loaded. None to continue after the checkpoint here.

    Raises:
        InputError: the model gives no logits, or cannot be built again; the images do not fit; the
            folder holds another run.

    Example:
        >>> import tempfile
        >>> model = build_model("small_cnn", num_classes=10, in_channels=1)
        >>> folder = Path(tempfile.mkdtemp()) / "mine"
        >>> with Recorder(folder, model, data="digits", epochs=2) as recorder:
        ...     for epoch in range(recorder.epochs_done, 2):
        ...         recorder.epoch({"loss": 2.3})  # after the steps of your loop
        >>> sorted(recorder.result)[:3]
        ['accuracy', 'adaptive_ece', 'aurc']
    """

    @said_in_python()
    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        *,
        data: Any,
        objective: Objective | str = "own_loss",
        epochs: int | None = None,
        factory: str | None = None,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        evaluated: nn.Module | None = None,
        state: Mapping[str, HasState] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        seed: int = 0,
        resumed_after: int | None = None,
    ) -> None:
        self.folder, self.epochs_done = Path(folder), 0
        check_path("folder", self.folder)
        self.model, objective = bare(model), bare(objective)
        self.result: dict[str, Any] | None = None
        """What `result.json` holds; None until the run is finished."""
        self._epochs, self._state = _count(epochs), dict(state or {})
        self._resumed_after = resumed_after
        spec, options = spec_of(objective)
        self._objective = objective if isinstance(objective, Objective) else Standard(self.model)
        if self._objective.model is not self.model:
            raise InputError("objective is of another model; pass the model that is inside it")
        self._evaluated = self.model if evaluated is None else bare(evaluated)
        self._prepared, recorded = _prepared(data, mean, std, class_names, self._evaluated, seed)
        shape_CHW, classes = self._prepared.scored.shape_CHW, len(self._prepared.class_names)
        for each in (self.model, self._evaluated):
            check_model(each, type(each).__name__, shape_CHW, classes)
        name = name_of_model(
            self._evaluated, factory, num_classes=classes, in_channels=shape_CHW[0]
        )
        self._config = _plain(
            {
                "recorder": True,
                "objective": spec,
                "options": options,
                "model": name,
                "data": recorded,
                "seed": seed,
                "training": {} if epochs is None else {"epochs": epochs},
                "hyperparameters": dict(hyperparameters or {}),
            }
        )
        self._images = _plain(_without_training_images(images_of(self._prepared), recorded))
        self._stack: ExitStack | None = None  # which holds the folder while it is open
        self._snapshots: SnapshotWriter | None = None
        self._identity = ""
        self._log = EpochLog(self.folder)

    def __enter__(self) -> Self:
        """Take the folder, and go on where the run stopped.

        Raises:
            InputError: the folder holds another run, or another process writes to it.
        """
        if self._stack is not None:
            raise InputError(f"this recorder of {self.folder} is open already; make another one")
        with ExitStack() as stack, said_in_python():
            self._identity = self._claim()
            if world_size() > 1:
                gathered(
                    torch.zeros(1), uneven=True
                )  # all have looked at the folder before one writes to it
            if rank() == 0:
                stack.enter_context(locked(self.folder))
            if (self.folder / "result.json").exists():
                self._take_finished()
            else:
                self._begin()
            self._stack = stack.pop_all()
        return self

    def _claim(self) -> str:
        if holds_run(self.folder):
            old = saved_config(self.folder / "run.json")
            if not old.get("recorder"):
                raise InputError(
                    f"{self.folder} holds a run that no recorder has written; pass another folder"
                )
            images = read_json(self.folder / "run.json").get("images") or {}
            check_same_config(old | images, self._config | self._images, self.folder)
        return claim(self.folder, self._config, resume=True)

    def _take_finished(self) -> None:
        check_tensors(self.folder)
        self.result = read_result(self.folder / "result.json")
        self.epochs_done = int(self.result.get("epochs", 0))
        if self._resumed_after is not None and self._resumed_after < self.epochs_done:
            raise InputError(
                f"{self.folder} holds this run already, finished after {self.epochs_done} "
                "epoch(s); pass another folder to train again"
            )
        if self._resumed_after is None and (self.folder / "checkpoint.pt").exists():
            self._restore()

    def _begin(self) -> None:
        if self._resumed_after is None:
            if exists_for_all(self.folder / "checkpoint.pt"):
                self._restore()
        else:
            self._check_lines(self._resumed_after)
            self.epochs_done = self._resumed_after
        if rank():
            return
        write_saved_run(self.folder, self._config, self._images, self._device, world_size())
        self._snapshots = open_snapshots(self.folder, self._prepared, self._device, self._objective)
        self._log.cut_after(self.epochs_done)

    def _restore(self) -> None:
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path)
        check_identity(state, self._identity, path)
        with loading_from(path):
            self._objective.load_state_dict(state["objective"])
            for name, each in self._state.items():
                each.load_state_dict(state["states"][name])
            if self._evaluated is not self.model:
                self._evaluated.load_state_dict(state["evaluated"])
            self.epochs_done = epochs_done(state)

    def _check_lines(self, done: int) -> None:
        """Refuse to go on where lines of epochs would be missing, or be lost, in between."""
        lines = [int(line["epoch"]) for line in self._log.read()]
        if done == 0 and lines and (self.folder / "checkpoint.pt").exists():
            raise InputError(
                f"{self.folder} holds {lines[-1]} epoch(s) of this run, and the training begins "
                "anew; resume it from its library's checkpoint, or pass another folder"
            )
        if done > (lines[-1] if lines else done):
            raise InputError(
                f"{self.folder} holds {lines[-1]} epoch(s) of this run, and the training goes on "
                f"after epoch {done}; delete its metrics.jsonl to go on without those in between, "
                "or pass another folder"
            )

    @property
    def _device(self) -> torch.device:
        """Where the model is now: some libraries move it."""
        found = next(self._evaluated.parameters(), None)
        return torch.device("cpu") if found is None else found.device

    def epoch(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Record that an epoch is over: its numbers, a checkpoint, and explanations.

        Args:
            metrics: numbers by name, or tensors of one number; epochs are counted here.

        Raises:
            InputError: a metric is no number, or all epochs are recorded already.
        """
        with said_in_python():
            self._check_open()
            row = numbers_of(metrics or {})
            if self.result is not None or self.epochs_done == self._epochs:
                raise InputError(
                    f"{self.folder} has its {self.epochs_done} epoch(s) already; pass another "
                    "folder, and loop over range(recorder.epochs_done, epochs)"
                )
            self.epochs_done += 1
            if rank() == 0:
                self._write_epoch(row)

    def _write_epoch(self, row: dict[str, float]) -> None:
        if self._snapshots is not None:
            self._snapshots.device = self._device
            self._snapshots.add(self._objective, self.epochs_done, self._evaluated)
        self._log.write({"epoch": self.epochs_done, **row})
        states = {name: each.state_dict() for name, each in self._state.items()}
        more = {} if self._evaluated is self.model else {"evaluated": self._evaluated.state_dict()}
        about = {"format": FORMAT, "identity": self._identity, "epochs_done": self.epochs_done}
        state = {"objective": self._objective.state_dict(), "states": states, **more}
        save_checkpoint(self.folder / "checkpoint.pt", about | _safe(state))

    def finish(self) -> dict[str, Any]:
        """Score the model and write what a finished run holds; the block's end calls it.

        All processes must call it.

        Returns:
            What `result.json` holds.

        Raises:
            InputError: the model's logits are not finite.
        """
        if self.result is not None:
            return self.result
        self._check_open()
        with said_in_python():
            logits_NK, labels_N = predict_together(
                self._evaluated, self._prepared, device=self._device, workers=0
            )
            if not bool(logits_NK.isfinite().all()):
                raise InputError(
                    f"the model's logits are not finite after epoch {self.epochs_done}, so there "
                    f"are no scores; what {self.folder} holds of the epochs is kept"
                )
            result = {
                "objective": self._config["objective"],
                "seed": self._config["seed"],
                "epochs": self.epochs_done,
                **asdict(score(logits_NK, labels_N)),
            }
            if rank() == 0:
                result = self._write_result(result, logits_NK, labels_N)
            self.result = result
        return self.result

    def _write_result(
        self, result: dict[str, Any], logits_NK: Tensor, labels_N: Tensor
    ) -> dict[str, Any]:
        seconds = [line["step_seconds"] for line in self._log.read() if "step_seconds" in line]
        if seconds:
            result["step_seconds"] = statistics.median(seconds)
        if not (self.folder / "checkpoint.pt").exists():  # of a model that was trained elsewhere
            self._write_checkpoint_alone()
        if self._snapshots is not None:
            self._snapshots.device = self._device
            self._snapshots.finish(self._objective, self._evaluated, logits_NK, labels_N)
        return write_outcome(self.folder, result, self._evaluated, logits_NK, labels_N)

    def _write_checkpoint_alone(self) -> None:
        about = {"format": FORMAT, "identity": self._identity, "epochs_done": self.epochs_done}
        state = {"objective": self._objective.state_dict(), "states": {}}
        save_checkpoint(self.folder / "checkpoint.pt", about | state)

    def close(self) -> None:
        """Leave the folder to others; what is recorded so far can be continued."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def _check_open(self) -> None:
        if self._stack is None:
            raise InputError(
                f"the recorder of {self.folder} is not open; write: with Recorder(...) as recorder:"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the run, unless an exception ends it; leave the folder to others."""
        if self._stack is None:
            return
        try:
            with said_in_python():
                if error is None:
                    with self._stack:
                        self.finish()
                else:  # of which it is said what is kept
                    self._stack.__exit__(kind, error, trace)
        finally:
            _say_in_python(error)
            self._stack = None


def bare(module: Any) -> Any:
    """What DistributedDataParallel or torch.compile has wrapped."""
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # noqa: SLF001 - torch has no other name for it
        else:
            return module


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an epoch as plain numbers.

    Example:
        >>> numbers_of({"loss": torch.tensor(0.5)})
        {'loss': 0.5}
        >>> numbers_of({"loss": "low"})
        Traceback (most recent call last):
        selfexplain.errors.InputError: the metric 'loss' is a str; pass numbers, or tensors of one
    """
    if len(metrics) > MOST_METRICS:
        raise InputError(f"an epoch has {len(metrics)} metrics; pass at most {MOST_METRICS}")
    row = {}
    for name, value in metrics.items():
        if name == "epoch":  # which the recorder counts
            continue
        if not isinstance(name, str) or name == DIGEST or len(name) > MOST_METRICS:
            raise InputError(
                f"a metric is called {str(name)[:60]!r}; pass another name, of at most "
                f"{MOST_METRICS} letters"
            )
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            # a tensor, or an array of numpy's, of one number gives it
            row[name] = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the metric {name!r} is a {type(value).__name__}; pass numbers, or tensors of one"
            ) from error
    return row


def _count(epochs: int | None) -> int | None:
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise InputError(f"epochs is {epochs!r}; pass a whole number of at least 1, or None")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs is {epochs}; pass a whole number of at least 1, or None")
    return epochs


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that it can be compared with what is read."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"hyperparameters cannot be written as JSON ({first_line(error)}); pass numbers, "
            "words, and lists of them"
        ) from error
    return found


def _safe(state: dict[str, Any]) -> dict[str, Any]:
    """A state that a checkpoint gives back: data alone, nothing that has to be run."""
    buffer = io.BytesIO()
    try:
        torch.save(state["states"], buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # whatever a user's object holds
        raise InputError(
            f"state holds what a checkpoint cannot ({first_line(error)[:120]}); pass objects whose "
            "state_dict() is of tensors, numbers and words"
        ) from error
    return state


def _prepared(
    data: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
    model: nn.Module,
    seed: int,
) -> tuple[Prepared, dict[str, Any]]:
    """The images that are scored, and what the record says of the data."""
    if isinstance(data, str):
        data = DataOptions(data=data)
    if isinstance(data, DataOptions):
        if class_names is not None:
            raise InputError(f"the data {data.data} name their classes; leave out class_names")
        prepared = prepare(load(data), data, seed)
        channels = prepared.scored.shape_CHW[0]
        if mean is not None:
            prepared = replace(prepared, mean_C=of_channels("mean", mean, 0.0, channels))
        if std is not None:
            prepared = replace(prepared, std_C=of_channels("std", std, 1.0, channels))
        return prepared, asdict(data)
    with torch.random.fork_rng(devices=[]):  # from which a loader draws, even in order
        images, mean_C, std_C = images_from(data, mean=mean, std=std)
    if class_names is None:
        logits = logits_of_blanks(model, type(model).__name__, images.shape_CHW)
        classes = logits.shape[1] if logits.ndim == 2 else 1
        class_names = tuple(map(str, range(classes)))
    names = tuple(map(str, class_names))
    low, high = int(images.labels_N.min()), int(images.labels_N.max())
    if low < 0 or high >= len(names):
        raise InputError(
            f"label {low if low < 0 else high} of the evaluation images is outside the "
            f"{len(names)} classes; pass labels from 0 to {len(names) - 1}, or class_names"
        )
    prepared = Prepared(
        train=images,
        scored=images,
        class_names=names,
        mean_C=mean_C,
        std_C=std_C,
        augmentation=Augmentation(),
    )
    return prepared, {"data": OWN_IMAGES}


def _without_training_images(
    images: dict[str, object], recorded: Mapping[str, Any]
) -> dict[str, object]:
    """Without the number of training images, where the loop has its own."""
    own = recorded["data"] == OWN_IMAGES
    return {name: value for name, value in images.items() if not (own and name == "train")}


def record(
    folder: str | Path, module: nn.Module, *, model: nn.Module | None = None, **options: Any
) -> Recorder:
    """The recorder of what another library trains.

    Args:
        folder: of the run.
        module: that is trained: an objective, a module that holds one, or a model.
        model: of it that gives logits; None for the objective's, or the module itself.
        **options: of `Recorder`.

    Example:
        >>> import tempfile
        >>> from selfexplain.objectives import LabelSmoothing
        >>> objective = LabelSmoothing(build_model("small_cnn", num_classes=10, in_channels=1))
        >>> recorder = record(Path(tempfile.mkdtemp()) / "mine", objective, data="digits")
        >>> recorder.model is objective.model
        True
    """
    inside = objectives_in(bare(module))
    fitting = [each for each in inside if model is None or each.model is bare(model)]
    if len(fitting) == 1 and "objective" not in options:
        options["objective"] = fitting[0]
    if model is None:
        model = fitting[0].model if len(fitting) == 1 else module
    return Recorder(folder, model, **options)


def objectives_in(module: nn.Module) -> list[Objective]:
    """The objectives among a module's submodules, without those that another one wraps.

    Example:
        >>> objectives_in(nn.Sequential(Standard(nn.Linear(2, 3))))[0].model
        Linear(in_features=2, out_features=3, bias=True)
    """
    inside = {id(each.objective) for each in module.modules() if isinstance(each, Wrapper)}
    found = [each for each in module.modules() if isinstance(each, Objective)]
    return [each for each in found if id(each) not in inside]


class Stopwatch:
    """Mean seconds of the steps of an epoch, for loops that tell when one begins and ends.

    Example:
        >>> watch = Stopwatch()
        >>> watch.start(); watch.stop(); watch.mean()["step_seconds"] >= 0
        True
        >>> watch.mean()
        {}
    """

    def __init__(self) -> None:
        self._began, self._seconds, self._steps = math.nan, 0.0, 0

    def start(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """A step is over."""
        self._seconds += time.perf_counter() - self._began
        self._steps += 1

    def mean(self) -> dict[str, float]:
        """`step_seconds` since the last call; nothing if there was no step."""
        found = {"step_seconds": self._seconds / self._steps} if self._steps else {}
        self._seconds, self._steps = 0.0, 0
        return found
