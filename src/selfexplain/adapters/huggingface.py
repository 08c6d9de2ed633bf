"""Objectives in Hugging Face's Trainer."""

from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import extract_model_from_parallel as unwrap_model
from torch import Tensor, nn

from selfexplain.data.batches import IMAGES, INDICES, LABELS, Batch, read_batch
from selfexplain.errors import InputError
from selfexplain.experiments.fit.recorder import Recorder, Stopwatch, record
from selfexplain.models.hub import Logits
from selfexplain.objectives import Objective

__all__ = ["Logits", "ObjectiveTrainer", "RecordRun"]


class ObjectiveTrainer(transformers.Trainer):
    """A Trainer whose model is an objective.

    Batches are dictionaries with `pixel_values` (or `image`, `images`) and `labels` (or `label`)
    and, for an objective that wants indices, `index`; `predict` also takes batches without labels.

    Args:
        model: the objective, around a model that returns logits (see `Logits`); None with
            `model_init`, which returns one.
        args: of the training.
        **options: those of `transformers.Trainer`.

    Raises:
        InputError: the model is no objective, or an option cannot work with one.
    """

    def __init__(
        self,
        model: Objective | None = None,
        args: transformers.TrainingArguments | None = None,
        **options: Any,
    ) -> None:
        if args is not None:
            _check_arguments(args)
        if options.get("compute_loss_func") is not None:
            raise InputError(
                "compute_loss_func would take the objective's place; leave it out, and write an "
                "objective of your own for a loss of your own"
            )
        callbacks = [*(options.pop("callbacks", None) or []), _TellEpochs()]
        if model is not None:
            _check_objective(model)
        super().__init__(model=model, args=args, callbacks=callbacks, **options)
        # An objective's loss is the mean of its batch, whatever its forward's signature says.
        self.model_accepts_loss_kwargs = False

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A new objective."""
        model: nn.Module = super().call_model_init(trial)
        _check_objective(model)
        return model

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss; with `return_outputs` the logits (B, K) too."""
        del num_items_in_batch
        objective = self.accelerator.unwrap_model(model)
        arguments = self._read(inputs).arguments(indices=objective.wants_indices)
        out = model(*arguments)
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
        objective = self.accelerator.unwrap_model(model)
        name = next((name for name in IMAGES if name in inputs), IMAGES[0])
        self.model.main_input_name = name  # which include_for_metrics asks the model for
        if self.args.fp16_full_eval or self.args.bf16_full_eval:
            like = next(objective.parameters())  # then the Trainer has cast the weights
            inputs = {**inputs, name: inputs[name].to(like.dtype)}
        batch = self._read(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            if batch.y_B is None and not prediction_loss_only:
                return None, objective.model(batch.x_BCHW), None
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), outputs["logits"].detach(), batch.y_B

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Refused: a card describes a model of transformers, which an objective only holds.

        Raises:
            InputError: always.
        """
        raise InputError(f"a Trainer's model card cannot work with an objective; {INSIDE}")

    def push_to_hub(self, *_: Any, **__: Any) -> str:
        """Refused, as `create_model_card`, which it calls.

        Raises:
            InputError: always.
        """
        raise InputError(f"push_to_hub cannot work with an objective; {INSIDE}")

    def _read(self, inputs: dict[str, Tensor]) -> Batch:
        return read_batch(inputs, [*(self.args.label_names or []), *LABELS])

    def _set_signature_columns_if_needed(self) -> None:
        """The columns of a data set that are kept; an objective's signature does not name them."""
        named = self.args.label_names or []
        self._signature_columns = [*IMAGES, *LABELS, *INDICES, *named]


INSIDE = "call push_to_hub() of the model of transformers inside it, once it is trained"
INSTEAD = {
    "push_to_hub": f"leave it out and {INSIDE}",
    "label_smoothing_factor": "leave it out and pass the objective LabelSmoothing(model)",
    "activation_checkpointing": "leave it out and call gradient_checkpointing_enable() of the "
    "model of transformers before it is wrapped",
    "torch_compile": "leave it out and call compile() of the model's blocks before it is wrapped: "
    "explanations are read by hooks, which a compiled objective would not run",
    "use_liger_kernel": "leave it out: it replaces parts of language models",
    "neftune_noise_alpha": "leave it out: it is noise on the embeddings of tokens",
    "fsdp": "leave it out and start the training with torchrun: explanations read whole weights, "
    "which each process then has",
    "deepspeed": "leave it out and start the training with torchrun: explanations read whole "
    "weights, which each process then has",
    "parallelism_config": "leave it out and start the training with torchrun: explanations read "
    "whole weights, which each process then has",
}
"""Arguments of a Trainer that an objective cannot have, and what to do in their places."""


def _check_arguments(args: transformers.TrainingArguments) -> None:
    """Raise InputError for an argument that cannot work with an objective."""
    for name, instead in INSTEAD.items():
        if getattr(args, name, None):
            said = "gradient_checkpointing" if name == "activation_checkpointing" else name
            raise InputError(f"{said} cannot work with an objective; {instead}")
    if args.train_sampling_strategy == "group_by_length":
        raise InputError(
            "group_by_length cannot work with an objective; leave it out: images have no lengths"
        )
    if args.n_gpu > 1:
        raise InputError(
            f"this process sees {args.n_gpu} GPUs, among which the Trainer would copy the "
            "objective in each step, and what it remembers would be lost; start the training with "
            "torchrun, one process for each GPU"
        )


def _check_objective(model: object) -> None:
    """Raise InputError unless a model is an objective."""
    if not isinstance(model, Objective):
        raise InputError(
            f"the model is a {type(model).__name__}; pass an objective, for example "
            "Introspective(Logits(model))"
        )


class _TellEpochs(transformers.TrainerCallback):
    def on_epoch_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        *_: Any,
        model: nn.Module,
        **__: Any,
    ) -> None:
        # max_steps, where it is given, decides how many epochs there are.
        epochs = max(1, state.num_train_epochs or round(args.num_train_epochs))
        objective: Any = unwrap_model(model)
        objective.begin_epoch(min(int(state.epoch or 0), epochs - 1), epochs)


_OPEN: dict[Path, Recorder] = {}
"""Recorders of trainings that are going on, by folder."""


class RecordRun(transformers.TrainerCallback):
    """Writes the run folder of a training, as `selfexplain train` does: see `Recorder`.

    For `ObjectiveTrainer`, and for any Trainer of an image classifier: there, pass
    `model=Logits(model)`. Metrics are those that the Trainer logs. Where it resumes from a
    checkpoint, the run in the folder goes on, too.

    Args:
        folder: of the run; another than the Trainer's own.
        data: what the model is scored on, as for `Recorder`, such as the data set of the
            evaluation.
        model: that gives logits; None for that of the objective, or the Trainer's own.
        **options: further ones of `Recorder`: factory, class_names, mean, std, ...

    Raises:
        InputError: when the training begins: the model gives no logits, or as `Recorder`.
    """

    def __init__(
        self, folder: str | Path, *, data: Any, model: nn.Module | None = None, **options: Any
    ) -> None:
        self.folder, self.options = folder, {"data": data, "model": model, **options}
        self.recorder: Recorder | None = None
        self._watch, self._logged, self._ended = Stopwatch(), dict[str, float](), False

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        *_: Any,
        model: nn.Module,
        **__: Any,
    ) -> None:
        """Take the folder."""
        del args
        folder = Path(self.folder).resolve()
        if folder in _OPEN:  # by a training that an exception has ended, of which nobody tells
            _OPEN.pop(folder).close()
        options = {"epochs": int(state.num_train_epochs) or None, **self.options}
        options["resumed_after"] = int(state.epoch or 0)
        self.recorder = record(self.folder, unwrap_model(model), **options).__enter__()
        _OPEN[folder] = self.recorder
        self._logged, self._ended = {}, False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self._watch.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is over."""
        self._watch.stop()

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """Take what the Trainer logs of an epoch; at its end it sums up the whole training."""
        logs = logs or {}
        if "train_runtime" not in logs:
            self._logged |= {name: value for name, value in logs.items() if name != "epoch"}

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """An epoch is over; its evaluation follows."""
        self._ended = True

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Record the epoch before, unless its checkpoint has been saved."""
        self._record_epoch()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Record the epoch that a checkpoint is saved of, so that both go on alike."""
        self._record_epoch()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Record the last epoch, and score the model."""
        assert self.recorder is not None, "the Trainer begins before it ends"
        self._record_epoch()
        _OPEN.pop(Path(self.folder).resolve(), None)
        self.recorder.__exit__(None, None, None)

    def _record_epoch(self) -> None:
        if self._ended and self.recorder is not None:
            numbers = {n: v for n, v in self._logged.items() if isinstance(v, int | float)}
            self.recorder.epoch({**numbers, **self._watch.mean()})
            self._logged, self._ended = {}, False
