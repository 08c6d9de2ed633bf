"""Objectives in Hugging Face's Trainer."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives import Objective


class Logits(nn.Module):
    """An image classifier of transformers as a model that returns logits.

    Args:
        model: takes `pixel_values` (B, C, H, W) and returns an output with `logits` (B, K).

    Example:
        >>> config = transformers.ResNetConfig(
        ...     embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
        ... )
        >>> model = Logits(transformers.ResNetForImageClassification(config))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.model(pixel_values=x_BCHW).logits
        return logits_BK


class ObjectiveTrainer(transformers.Trainer):
    """A Trainer whose model is an objective.

    Batches are dictionaries with `pixel_values` and `labels` and, for an objective that wants
    indices, `index`; `predict` also takes batches without labels. Pass
    `remove_unused_columns=False` in the arguments, as the columns cannot be read off an objective.

    Args:
        model: the objective, around a model that returns logits (see `Logits`).
        **arguments: those of `transformers.Trainer`.
    """

    def __init__(self, model: Objective, **arguments: Any) -> None:
        callbacks = [*(arguments.pop("callbacks", None) or []), _TellEpochs(model)]
        super().__init__(model=model, callbacks=callbacks, **arguments)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss; with `return_outputs` the logits (B, K) too."""
        del num_items_in_batch
        indices = [inputs["index"]] if "index" in inputs else []
        out = model(inputs["pixel_values"], inputs["labels"], *indices)
        return (out["loss"], {"logits": out["output"]}) if return_outputs else out["loss"]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of a batch, in evaluation mode, without gradients.

        A batch without labels has logits alone: those of the objective's own model.
        """
        del ignore_keys
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            if "labels" not in inputs:
                if prediction_loss_only:
                    raise InputError("a loss needs labels; pass a data set whose batches have them")
                objective = self.accelerator.unwrap_model(model)
                return None, objective.model(inputs["pixel_values"]), None
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), outputs["logits"].detach(), inputs["labels"]


class _TellEpochs(transformers.TrainerCallback):
    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def on_epoch_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        *_: Any,
        **__: Any,
    ) -> None:
        epochs = max(1, round(args.num_train_epochs))
        self.objective.begin_epoch(min(int(state.epoch or 0), epochs - 1), epochs)
