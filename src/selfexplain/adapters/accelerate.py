"""The run folder of a training in a loop of Accelerate's."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from selfexplain.experiments.fit.recorder import Recorder, record


def recorder_of(
    accelerator: Accelerator,
    prepared: nn.Module,
    folder: str | Path,
    *,
    data: Any,
    **options: Any,
) -> Recorder:
    """A recorder for a loop of Accelerate's: `with` it, and tell it of each epoch.

    Weights and `state` are loaded when the run goes on; a loop that calls `load_state` itself
    passes `resumed_after`, the number of epochs that are done.

    Args:
        accelerator: that has prepared what is trained.
        prepared: the objective, or the model, as `prepare` returned it.
        folder: of the run; for nothing else.
        data: what the model is scored on, as for `Recorder`; of several processes, whole in each.
        **options: further ones of `Recorder`: epochs, state, factory, class_names, mean, std, ...

    Raises:
        InputError: the model gives no logits, or as `Recorder`.

    Example:
        >>> import tempfile
        >>> from selfexplain import Introspective
        >>> from selfexplain.models import build_model
        >>> accelerator = Accelerator(cpu=True)
        >>> model = build_model("small_cnn", num_classes=10, in_channels=1)
        >>> objective = accelerator.prepare(Introspective(model))
        >>> folder = tempfile.mkdtemp() + "/run"
        >>> with recorder_of(accelerator, objective, folder, data="digits", epochs=1) as recorder:
        ...     for epoch in range(recorder.epochs_done, 1):
        ...         recorder.epoch({"loss": 2.3})
    """
    module = accelerator.unwrap_model(prepared)
    accelerator.wait_for_everyone()
    return record(folder, module, data=data, **options)
