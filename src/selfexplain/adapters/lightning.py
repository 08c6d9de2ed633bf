"""Objectives in Lightning: a module that trains one, and a callback for modules of yours."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.objectives import Objective

MakeOptimiser = Callable[[Iterable[nn.Parameter]], Any]
"""Parameters -> optimiser, or whatever else `configure_optimizers` may return."""


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, as the library's own trainer has it.

    Example:
        >>> sgd(nn.Linear(2, 1).parameters()).defaults["nesterov"]
        True
    """
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


class ObjectiveModule(lightning.LightningModule):
    """Trains an objective and validates its model; logs every term of the loss.

    Args:
        objective: any, around a model that returns logits.
        make_optimiser: of all the objective's parameters.

    Example:
        >>> from selfexplain import Introspective
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> module = ObjectiveModule(Introspective(model))
        >>> module(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, objective: Objective, make_optimiser: MakeOptimiser = sgd) -> None:
        super().__init__()
        self.objective = objective
        self.make_optimiser = make_optimiser

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.objective.model(x_BCHW)
        return logits_BK

    def on_train_epoch_start(self) -> None:
        """Tell the objective that an epoch begins."""
        begin_epoch(self.objective, self.trainer)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of a batch of images, labels and, for objectives that want them, indices."""
        del batch_index
        out: dict[str, Tensor] = self.objective(*batch)
        terms = {name: value.detach() for name, value in out.items() if name != "output"}
        self.log_dict(terms, batch_size=len(batch[0]))
        return out["loss"]

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Log cross-entropy and accuracy of the model."""
        del batch_index
        x_BCHW, y_B = batch[:2]
        logits_BK = self(x_BCHW)
        accuracy = (logits_BK.argmax(dim=1) == y_B).float().mean()
        scores = {"val_nll": F.cross_entropy(logits_BK, y_B), "val_accuracy": accuracy}
        self.log_dict(scores, batch_size=len(y_B))

    def configure_optimizers(self) -> Any:
        """The optimiser of all the objective's parameters."""
        return self.make_optimiser(p for p in self.objective.parameters() if p.requires_grad)


class TellEpochs(lightning.Callback):
    """For a module of your own: tells the objectives inside it when an epoch begins.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[TellEpochs()], logger=False, accelerator="cpu",
        ...                             enable_progress_bar=False, enable_model_summary=False)
    """

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Tell every objective among the module's submodules."""
        for module in pl_module.modules():
            if isinstance(module, Objective):
                begin_epoch(module, trainer)


def begin_epoch(objective: Objective, trainer: lightning.Trainer) -> None:
    """Tell an objective which epoch of how many begins; a run without end has one at a time."""
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
    objective.begin_epoch(trainer.current_epoch, max(epochs, trainer.current_epoch + 1))
