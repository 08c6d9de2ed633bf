"""Objectives in Lightning: a module that trains one, and callbacks for modules of yours."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.data.batches import Batch, read_batch
from selfexplain.errors import InputError
from selfexplain.experiments.fit.recorder import Recorder, Stopwatch, objectives_in, record
from selfexplain.objectives import Objective
from selfexplain.training.optimizers import check_optimizer, make_optimizer
from selfexplain.training.options import OptimizerName

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Any]
"""Parameters -> optimizer, or whatever else `configure_optimizers` may return."""


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, at a learning rate that needs no schedule.

    The library's own trainer has ten times as much, and lets it fall to zero along a cosine: the
    better choice for a training from scratch, and one that diverges where it stays as high.

    Example:
        >>> sgd(nn.Linear(2, 1).parameters()).defaults["nesterov"]
        True
    """
    return make_optimizer("sgd", parameters, lr=0.01)


class ObjectiveModule(lightning.LightningModule):
    """Trains an objective; validates and tests its model, and predicts with it.

    Logs every term of the loss. Batches are images, labels and, for objectives that want them,
    indices, in this order or in a dictionary (`read_batch`); to predict needs images alone, and
    gives logits.

    Args:
        objective: any, around a model that returns logits.
        make_optimizer: of all the objective's parameters. May return schedules too, in any form
            that `configure_optimizers` may. Or an optimizer's name, as `selfexplain train` has it:
            sgd (as above), adamw or muon, at a learning rate that stays.

    Example:
        >>> from selfexplain import Introspective
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> module = ObjectiveModule(Introspective(model))
        >>> module(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, objective: Objective, make_optimizer: MakeOptimizer | OptimizerName = sgd
    ) -> None:
        super().__init__()
        if isinstance(make_optimizer, str):
            check_optimizer(make_optimizer)
        self.objective = objective
        self.make_optimizer = make_optimizer

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.objective.model(x_BCHW)
        return logits_BK

    def on_train_start(self) -> None:
        """Tell the objective which epoch continues, if a checkpoint was made within it."""
        if self.trainer.fit_loop.restarted_mid_epoch:
            begin_epoch(self.objective, self.trainer)

    def on_train_epoch_start(self) -> None:
        """Tell the objective that an epoch begins."""
        begin_epoch(self.objective, self.trainer)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of a batch."""
        del batch_index
        arguments = read_batch(batch).arguments(indices=self.objective.wants_indices)
        out: dict[str, Tensor] = self.objective(*arguments)
        terms = {name: value.detach() for name, value in out.items() if name != "output"}
        self.log_dict(terms, batch_size=len(arguments[0]))
        return out["loss"]

    def validation_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log cross-entropy and accuracy of the model: val_nll and val_accuracy."""
        del batch_index, dataloader_idx
        self._log_scores("val", read_batch(batch))

    def test_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log cross-entropy and accuracy of the model: test_nll and test_accuracy."""
        del batch_index, dataloader_idx
        self._log_scores("test", read_batch(batch))

    def predict_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Tensor:
        """Logits (B, K) of a batch, with labels or without."""
        del batch_index, dataloader_idx
        logits_BK: Tensor = self(read_batch(batch).x_BCHW)
        return logits_BK

    def _log_scores(self, stage: str, batch: Batch) -> None:
        x_BCHW, y_B = batch.arguments(indices=False)
        logits_BK = self(x_BCHW)
        classes_B = y_B if y_B.ndim == 1 else y_B.argmax(dim=1)
        accuracy = (logits_BK.argmax(dim=1) == classes_B).float().mean()
        nll = F.cross_entropy(logits_BK, y_B)
        scores = {f"{stage}_nll": nll, f"{stage}_accuracy": accuracy}
        self.log_dict(scores, batch_size=len(y_B))

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        *,
        objective: Objective | None = None,
        **options: Any,
    ) -> Any:
        """The module of a checkpoint, whose weights and memories the objective is given.

        Args:
            checkpoint_path: of the file.
            map_location: where tensors go.
            objective: built as for the training; a checkpoint does not hold how it was.
            **options: of `LightningModule.load_from_checkpoint`, and `make_optimizer`.

        Raises:
            InputError: there is no objective.
        """
        if objective is None:
            raise InputError(
                "a checkpoint holds the objective's tensors and not how it was built; pass "
                "objective=..., built as for the training"
            )
        return super().load_from_checkpoint(
            checkpoint_path, map_location, objective=objective, **options
        )

    def configure_optimizers(self) -> Any:
        """The optimizer of all the objective's parameters."""
        make = sgd if self.make_optimizer == "sgd" else self.make_optimizer
        if isinstance(make, str):
            return make_optimizer(make, self.objective)
        return make(p for p in self.objective.parameters() if p.requires_grad)


class TellEpochs(lightning.Callback):
    """For a module of your own: tells the objectives inside it when an epoch begins.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[TellEpochs()], logger=False, accelerator="cpu",
        ...                             enable_progress_bar=False, enable_model_summary=False)
    """

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Tell which epoch continues, if a checkpoint was made within it."""
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Tell every objective among the module's submodules."""
        for objective in objectives_in(pl_module):
            begin_epoch(objective, trainer)


def begin_epoch(objective: Objective, trainer: lightning.Trainer) -> None:
    """Tell an objective which epoch of how many begins; a run without end has one at a time."""
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
    objective.begin_epoch(trainer.current_epoch, max(epochs, trainer.current_epoch + 1))


class RecordRun(lightning.Callback):
    """Writes the run folder of a training, as `selfexplain train` does: see `Recorder`.

    Metrics are those that the module logs. Where Lightning resumes from a checkpoint, the run in
    the folder goes on, too.

    Args:
        folder: of the run; for nothing else.
        data: what the model is scored on, as for `Recorder`, such as the loader of the validation.
        model: that gives logits; None for the model of the module's objective, or the module.
        **options: further ones of `Recorder`: factory, class_names, mean, std, ...

    Raises:
        InputError: when the training begins: the model gives no logits, or as `Recorder`.

    Example:
        >>> callback = RecordRun("runs/mine", data="digits")
    """

    def __init__(
        self, folder: str | Path, *, data: Any, model: nn.Module | None = None, **options: Any
    ) -> None:
        self.folder, self.options = folder, {"data": data, "model": model, **options}
        self.recorder: Recorder | None = None
        self._watch = Stopwatch()
        self._before: dict[str, Tensor] = {}
        self._validated: set[str] = set()
        self._stale = True

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the folder."""
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        options = {"epochs": epochs, "resumed_after": trainer.current_epoch, **self.options}
        self.recorder = record(self.folder, pl_module, **options).__enter__()

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self._watch.start()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """A step is over."""
        self._watch.stop()

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Remember which metrics there are, to see which are the validation's."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Take note of its metrics, which Lightning keeps until it validates again."""
        found = trainer.callback_metrics.items()
        self._validated |= {name for name, value in found if self._before.get(name) is not value}
        self._stale = False

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Record an epoch, with what its validation logged, if there was one."""
        assert self.recorder is not None, "Lightning begins before it ends"
        left_out = self._validated if self._stale else set[str]()
        found = {n: v for n, v in trainer.callback_metrics.items() if n not in left_out}
        self.recorder.epoch({**found, **self._watch.mean()})
        self._stale = True

    def on_train_end(self, *_: Any) -> None:
        """Score the model."""
        assert self.recorder is not None, "Lightning begins before it ends"
        self.recorder.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the folder, to be continued."""
        del trainer, pl_module
        if self.recorder is not None:
            self.recorder.__exit__(type(exception), exception, exception.__traceback__)
