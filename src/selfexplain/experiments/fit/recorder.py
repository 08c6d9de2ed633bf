"""The run folder of a training whose loop is somebody else's: `Recorder`.

It holds the files that `selfexplain train` writes, written by the same functions, so that whatever
reads the one reads the other. What the record says of the training is what its loop has told.

Shape suffixes: B batch, N images, C channels, H and W space, K classes.
"""

import io
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfexplain.distributed import exists_for_all, gathered, rank, world_size
from selfexplain.errors import BrokenOffError, InputError, first_line
from selfexplain.evaluation import score
from selfexplain.experiments.data import (
    OWN_IMAGES,
    predict_together,
)
from selfexplain.experiments.fit.model import check_model
from selfexplain.experiments.fit.recorded import (
    name_of_model,
    numbers_of,
    plain,
    scored_data,
    spec_of,
)
from selfexplain.experiments.fit.snapshots import SnapshotWriter, open_snapshots
from selfexplain.experiments.read_records import read_result
from selfexplain.experiments.run_dir import (
    check_same_config,
    check_tensors,
    check_written_alike,
    claim,
    holds_run,
    images_of,
    locked,
    saved_config,
    write_outcome,
    write_saved_run,
)
from selfexplain.files import read_json
from selfexplain.limits import check_path
from selfexplain.objectives import Objective, Standard
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
        >>> from selfexplain.models import build_model
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
        self._prepared, recorded = scored_data(data, mean, std, class_names, self._evaluated, seed)
        shape_CHW, classes = self._prepared.scored.shape_CHW, len(self._prepared.class_names)
        for each in (self.model, self._evaluated):
            check_model(each, type(each).__name__, shape_CHW, classes)
        name = name_of_model(
            self._evaluated, factory, num_classes=classes, in_channels=shape_CHW[0]
        )
        self._config = plain(
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
        self._images = plain(_without_training_images(images_of(self._prepared), recorded))
        self._stack: ExitStack | None = None  # which holds the folder while it is open
        self._snapshots: SnapshotWriter | None = None
        self._identity, self._looked_at = "", False
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
            if world_size() > 1:  # all look at the folder before one writes to it
                gathered(torch.zeros(1), uneven=True)
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
            check_written_alike(old, self._config, self.folder)
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
        states = {name: each.state_dict() for name, each in self._state.items()}
        if not self._looked_at:  # what kind of values they hold does not change
            _check_is_data(states)
            self._looked_at = True
        if self._snapshots is not None:
            self._snapshots.device = self._device
            self._snapshots.add(self._objective, self.epochs_done, self._evaluated)
        self._log.write({"epoch": self.epochs_done, **row})
        more = {} if self._evaluated is self.model else {"evaluated": self._evaluated.state_dict()}
        about = {"format": FORMAT, "identity": self._identity, "epochs_done": self.epochs_done}
        state = {"objective": self._objective.state_dict(), "states": states, **more}
        save_checkpoint(self.folder / "checkpoint.pt", about | state)

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


def _count(epochs: int | None) -> int | None:
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise InputError(f"epochs is {epochs!r}; pass a whole number of at least 1, or None")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs is {epochs}; pass a whole number of at least 1, or None")
    return epochs


def _check_is_data(states: dict[str, Any]) -> None:
    """Raise InputError unless a checkpoint gives these back: data alone, nothing that is run."""
    buffer = io.BytesIO()
    try:
        torch.save(states, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a user's object holds
        raise InputError(
            f"state holds what a checkpoint cannot ({first_line(error)[:120]}); pass objects whose "
            "state_dict() is of tensors, numbers and words"
        ) from error


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
        >>> from selfexplain.models import build_model
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
