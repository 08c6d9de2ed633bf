"""Objectives as training tasks of timm."""

from typing import Any

import timm.task
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from selfexplain.objectives import Objective


class ObjectiveTask(timm.task.TrainingTask):
    """A training task around an objective: trains the objective, evaluates its model.

    Args:
        objective: any, around a model that returns logits.
        **options: of `timm.task.TrainingTask`: device, dtype, verbose.

    Example:
        >>> import torch
        >>> from selfexplain import Introspective
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> task = ObjectiveTask(Introspective(model))
        >>> sorted(task(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])))
        ['cross_entropy', 'introspection', 'loss', 'output']
    """

    def __init__(self, objective: Objective, **options: Any) -> None:
        super().__init__(**options)
        self.trainable_module: nn.Module = objective
        self.objective = [objective]  # in a list, so that it is a submodule once

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss, output and terms of images (B, C, H, W) and labels (B,)."""
        out: dict[str, Tensor] = self.trainable_module(x_BCHW, y_B)
        return out

    def prepare_distributed(self, device_ids: list[Any] | None = None, **options: Any) -> Any:
        """Wrap the objective for several processes."""
        self.trainable_module = nn.parallel.DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **options
        )
        return self

    def setup_ema(
        self, decay: float = 0.9999, use_warmup: bool = False, device: Any = None, **options: Any
    ) -> Any:
        """Keep a moving average of the model; what the objective remembers is not averaged."""
        self.trainable_module_ema: Any = ModelEmaV3(
            self.objective[0].model, decay=decay, use_warmup=use_warmup, device=device, **options
        )
        return self.trainable_module_ema

    def update_ema(self, step: int | None = None) -> None:
        """Move the average towards the model."""
        if self.has_ema():
            self.trainable_module_ema.update(self.objective[0].model, step=step)

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """The model inside the objective, or its moving average."""
        if module is not None:
            return module
        return self.get_trainable_module(ema=True) if ema else self.objective[0].model

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What the objective remembers besides its model."""
        del module, ema
        objective = self.objective[0]
        modules = objective.named_modules()
        inside = next(name for name, module in modules if module is objective.model)
        state = objective.state_dict().items()
        return {name: value for name, value in state if not name.startswith(f"{inside}.")}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Restore what `get_task_state` returned."""
        del strict, module, ema
        if state:
            self.objective[0].load_state_dict(state, strict=False)  # the model comes separately
