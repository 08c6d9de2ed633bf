"""A search over its epochs: what is logged, saved and resumed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfexplain.data import Batches, normalise
from selfexplain.errors import InputError
from selfexplain.experiments.data import Prepared, predict_together
from selfexplain.experiments.fit.snapshots import only_warned
from selfexplain.experiments.read_records import read_search_lines
from selfexplain.experiments.search.setup import (
    BilevelLoader,
    mean_entropy,
    operation_weights,
    skip_connections,
)
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import write_tensors
from selfexplain.hypergradients import World
from selfexplain.hypergradients.level import SINGLE
from selfexplain.lease import ArchitectureSearch, LeaSE
from selfexplain.lease.options import selection_rounds
from selfexplain.lease.search import Batch
from selfexplain.lease.selection import Score, audience_score, decide, supernet_score
from selfexplain.seeding import epoch_seed
from selfexplain.spaces import from_string, to_string
from selfexplain.spaces.supernet import WithArchitecture
from selfexplain.training.log import EpochLog
from selfexplain.training.loggers import Logger
from selfexplain.training.loop import run_epochs
from selfexplain.training.steps import autotuned_convolutions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# What the explainer would show its audience of a few held-out images, epoch after epoch.
#
# `album/` in the folder of a search holds `images.safetensors`, with `images` uint8 (B, C, H, W)
# and `labels` int64 (B,), and for each epoch `epoch-0001.safetensors`, ..., with float32 (B, C,
# H, W):
#
# - `delta`, the explanation, in units of the pixels' range [0, 1]: within eps, and 0 where a
# pixel does not count; - `explained`, x (*) delta as a picture in the same units: normalised as
# every image is, it becomes what the audience receives. A value outside [0, 1] is one that no
# image has, and the images' mean is what the networks read as zero.
#
# The images are explained within a batch as large as one of the search (or a process's share of
# it), since in training BatchNorm looks at the whole batch.


IMAGES = 4
"""How many images the snapshots show."""


class SearchSnapshotWriter:
    """Writes the snapshots of a search whose method explains (lease and its controls, sanas)."""

    def __init__(
        self,
        config: SearchConfig,
        prepared: Prepared,
        device: torch.device,
        processes: World = SINGLE,
    ) -> None:
        self.folder, self.seed = config.out / "album", config.seed
        self.prepared, self.device = prepared, device
        size = config.batch_size // processes.count
        self.indices_B = snapshot_indices(prepared.scored.labels_N, size)

    def record(self, search: ArchitectureSearch, epoch: int) -> None:
        """Write what the explainer would show after an epoch, which counts from 1.

        Nothing of the search is changed. A method that does not explain leaves none. What goes
        wrong is a warning.
        """
        if not isinstance(search, LeaSE):
            return
        with only_warned(f"the pictures of epoch {epoch}"):
            self._record(search, epoch)

    def _record(self, search: LeaSE, epoch: int) -> None:
        images_BCHW = self.prepared.scored.read(self.indices_B)
        labels_B = self.prepared.scored.labels_N[self.indices_B]
        first = slice(IMAGES)
        images = {"images": images_BCHW[first], "labels": labels_B[first]}
        write_tensors(self.folder / "images.safetensors", images)
        mean_C, std_C = self.prepared.mean_C.to(self.device), self.prepared.std_C.to(self.device)
        x_BCHW = normalise(images_BCHW.to(self.device), mean_C, std_C)
        batch = x_BCHW.contiguous(memory_format=torch.channels_last), labels_B.to(self.device)
        # The controls draw anew for each epoch, as they do for each step.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, 0))
        delta_BCHW, shown_BCHW = search.explain(batch, generator)
        picture_BCHW = shown_BCHW * std_C[:, None, None] + mean_C[:, None, None]
        explained = {"delta": delta_BCHW[first], "explained": picture_BCHW[first]}
        write_tensors(self.folder / f"epoch-{epoch:04d}.safetensors", explained)


def snapshot_indices(labels_N: Tensor, size: int) -> Tensor:
    """Indices (size,) of a batch that begins with the images of the snapshots.

    First one image of each of up to four classes, which lie evenly among all classes, then others,
    evenly among the rest.
    """
    classes = torch.bincount(labels_N).nonzero()[:, 0]
    shown = _evenly_spaced(classes, min(IMAGES, len(classes), size))
    firsts = torch.stack([(labels_N == label).nonzero()[0, 0] for label in shown])
    rest = torch.ones(len(labels_N), dtype=torch.bool)
    rest[firsts] = False
    return torch.cat([firsts, _evenly_spaced(rest.nonzero()[:, 0], size - len(firsts))])


def _evenly_spaced(values_N: Tensor, count: int) -> Tensor:
    """This many of the values, the first and the last among them."""
    return values_N[torch.linspace(0, len(values_N) - 1, count).long()]


StepCallback = Callable[[int, int], None]


class SearchProgress:
    """A search on its way through the epochs (an `EpochJob`); the first process writes."""

    def __init__(
        self,
        config: SearchConfig,
        search: ArchitectureSearch,
        halves: BilevelLoader,
        prepared: Prepared,
        fabric: Fabric,
        loggers: Sequence[Logger] = (),
        build: Callable[[int], ArchitectureSearch] | None = None,
    ) -> None:
        self.build, self.stage = build, 0
        self.config, self.search, self.halves, self.prepared = config, search, halves, prepared
        self.fabric, self.device = fabric, fabric.device
        self.log = EpochLog(config.out, loggers, name="search.jsonl")
        self.path = config.out / "checkpoint.pt"
        self.epochs_done, self.stopped = 0, False
        self.genotype = search.genotype()
        self.snapshots = SearchSnapshotWriter(config, prepared, self.device, search.processes)

    def run(self, identity: str, on_step: StepCallback) -> None:
        """Run the remaining epochs, given a text that identifies the whole configuration."""
        self.on_step = on_step
        self.epochs_done = run_epochs(
            self,
            self.config.all_epochs,
            fabric=self.fabric,
            log=self.log,
            path=self.path,
            seed=self.config.seed,
            identity=identity,
            resume=self.config.resume,
        )

    def begin(self, epoch: int) -> None:
        """Tell the search how far it has come."""
        past = epoch - self.config.epochs
        if past < 0:
            done = epoch / self.config.epochs
            self._enter_stage(self.search.base.stage(done)[0], done)
            self.search.set_progress(done)
        else:
            self.search.set_tuning(past / (self.config.all_epochs - self.config.epochs))

    def _enter_stage(self, stage: int, done: float) -> None:
        """Go on with the next supernet, of the operations that the last one keeps."""
        if stage == self.stage:
            return
        last = self.search
        last.set_progress(done)
        self._build(stage)
        self.search.kept, self.search.skipped = last.kept, last.skipped

    def _build(self, stage: int) -> None:
        assert self.build is not None
        self.search, self.stage = self.build(stage), stage

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Take the steps of an epoch, and look at the resulting cell."""
        metrics = self._epoch(epoch)
        self._select(epoch + 1)
        self._look_at_cell(epoch + 1)
        return {**metrics, **self._state_of_cell()}

    def show(self, epoch: int) -> None:
        """Write what the explainer would show now."""
        self.snapshots.record(self.search, epoch)

    def state(self) -> dict[str, Any]:
        """Of the search, and the cell so far."""
        return {
            **({"stage": self.stage} if self.stage else {}),
            "stopped": self.stopped,
            "genotype": to_string(self.genotype),
            "search": self.search.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where a checkpoint was made."""
        if state.get("stage", 0) != self.stage:
            self._build(state["stage"])
        self.search.load_state_dict(state["search"])
        self.stopped, self.genotype = state["stopped"], from_string(state["genotype"])

    def _epoch(self, epoch: int) -> dict[str, Any]:
        epochs = self.config.all_epochs
        sums: dict[str, float] = defaultdict(float)
        started = time.perf_counter()
        with autotuned_convolutions():
            for step, (train_batch, val_batch) in enumerate(self.halves.epoch(epoch)):
                moves = epoch >= self.config.resting_epochs and not self.search.rests
                metrics = self.search.step(train_batch, val_batch, move_architecture=moves)
                for name, loss in metrics.items():
                    sums[name] += loss
                self.on_step(epoch * len(self.halves) + step + 1, epochs * len(self.halves))
        self.search.end_epoch(self._held_out().epoch(0))
        seconds = time.perf_counter() - started
        return {
            "losses": {name: _number(total / len(self.halves)) for name, total in sums.items()},
            "validation_accuracy": self._validation_accuracy(),
            "skipped_steps": self.search.skipped,
            "step_seconds": seconds / len(self.halves),
        }

    def _validation_accuracy(self) -> float:
        """Of the supernet, in percent, on the half that moves the architecture."""
        model = WithArchitecture(self.search.evaluated, self.search.expected())
        logits_NK, y_N = predict_together(
            model, self.prepared, device=self.device, workers=self.config.data.workers
        )
        return 100 * float((logits_NK.argmax(1) == y_N).float().mean())

    def _held_out(self) -> Batches:
        """The half that moves the architecture, in order and as it is."""
        return self.prepared.scored_batches(device=self.device, workers=self.config.data.workers)

    def _select(self, epochs_done: int) -> None:
        """Decide by perturbation, if it is time: at the end of the search, then at intervals."""
        options, past = self.config.base, epochs_done - self.config.epochs
        if options.select == "argmax" or past < 0:
            return
        interval = options.selection_epochs
        if interval and past % interval:
            return
        # Without tuning, all decisions are made at once.
        rounds = 1 if interval else selection_rounds(self.search.supernet.family)
        for _ in range(rounds):
            decide(self.search, self._score(epochs_done))

    def _score(self, epochs_done: int) -> Score:
        def held_out() -> Iterator[Batch]:
            return self._held_out().epoch(0)

        def training() -> Iterator[Batch]:
            return self.halves.training.epoch(epochs_done)

        if self.config.base.select == "perturbation":
            return supernet_score(self.search, held_out)
        assert isinstance(self.search, LeaSE)
        steps = self.config.base.teaching_steps
        return audience_score(self.search, training, held_out, steps)

    def _look_at_cell(self, epochs_done: int) -> None:
        """Adopt the cell that the architecture currently encodes, unless it skips too much."""
        now, most = self.search.genotype(), self.config.stop_at_skips
        resting = epochs_done <= self.config.resting_epochs
        self.stopped = most is not None and not resting and skip_connections(now)[0] >= most
        if not self.stopped:
            self.genotype = now

    def _state_of_cell(self) -> dict[str, Any]:
        genotype = self.search.genotype()
        weights = operation_weights(self.search.expected())
        skips, edges = skip_connections(genotype)
        return {
            "genotype": to_string(genotype),
            "skip_share": skips / edges,
            "entropy": mean_entropy(weights),
            "weights": {name: _rounded(weights_EO) for name, weights_EO in weights.items()},
            "alphas": {name: _rounded(t, 7) for name, t in self.search.architecture.items()},
        }

    def lines(self) -> list[dict[str, Any]]:
        """What was logged of the epochs, of which there is one at least."""
        lines = read_search_lines(self.log, self.config.space)
        if not lines:
            raise InputError(
                f"{self.log.path} has no record of any epoch; put it back as it was, or "
                f"delete {self.path} to search again"
            )
        return lines

    def outcome(self) -> dict[str, Any]:
        """What a result says besides the cell."""
        lines = self.lines()
        last = lines[-2] if self.stopped and len(lines) > 1 else lines[-1]  # that of the cell
        return {
            "epochs": self.epochs_done,
            "stopped_early": self.stopped,
            "validation_accuracy": last["validation_accuracy"],
            "skipped_steps": self.search.skipped,
            "step_seconds": last["step_seconds"],
        }


def _rounded(tensor: Tensor, digits: int = 5) -> list[Any]:
    """Numbers in lists as deep as the tensor has dimensions."""
    if tensor.dim() > 1:
        return [_rounded(part, digits) for part in tensor.detach().cpu()]
    return [round(number, digits) for number in tensor.tolist()]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value and abs(value) != float("inf") else None
