"""Objectives as training tasks of timm."""

from pathlib import Path
from typing import Any

import timm.data
import timm.task
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from selfexplain.experiments.fit.recorder import Recorder, record
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


def recorder_of(
    task: nn.Module, folder: str | Path, *, data: Any, ema: bool = False, **options: Any
) -> Recorder:
    """A recorder for a loop over timm's functions: `with` it, and tell it of each epoch.

    Images are normalised as the model's configuration says, unless `mean` and `std` are passed.

    Args:
        task: an `ObjectiveTask`, or a model of timm that is trained without one.
        folder: of the run; for nothing else.
        data: what the model is scored on, as for `Recorder`: the loader that timm's
            `create_loader` makes for the validation.
        ema: whether the moving average of the task is scored.
        **options: further ones of `Recorder`: epochs, state, class_names, ...

    Raises:
        InputError: the model gives no logits, or as `Recorder`.

    Example:
        >>> import tempfile
        >>> import timm
        >>> import torch
        >>> from selfexplain import Introspective
        >>> task = ObjectiveTask(Introspective(timm.create_model("test_resnet", num_classes=4)))
        >>> batches = [(torch.zeros(4, 3, 64, 64), torch.arange(4))]
        >>> with recorder_of(task, tempfile.mkdtemp() + "/run", data=batches, epochs=1) as recorder:
        ...     for epoch in range(recorder.epochs_done, 1):
        ...         recorder.epoch({"loss": 1.4})  # what train_one_epoch and validate return
    """
    trained = task.objective[0] if isinstance(task, ObjectiveTask) else task
    model = trained.model if isinstance(trained, Objective) else trained
    described = timm.data.resolve_data_config(model=model) if _is_described(model) else {}
    normalised = {name: described[name] for name in ("mean", "std") if name in described}
    if ema:
        options["evaluated"] = task.get_eval_model(ema=True).module  # type: ignore[operator]
    return record(folder, trained, data=data, **{**normalised, **options})


def _is_described(model: nn.Module) -> bool:
    return bool(getattr(model, "pretrained_cfg", None))
