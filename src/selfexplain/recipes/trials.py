"""Trials of options: ordinary runs that may diverge without ending what they are trials for."""

from collections.abc import Callable, Sequence
from typing import Any

from selfexplain.recipes.machines import first_process
from selfexplain.recipes.options import TrainConfig
from selfexplain.recipes.train import run_training
from selfexplain.training.files import write_json
from selfexplain.training.loop import DivergedError

Outcome = dict[str, Any] | None
"""What `result.json` of a trial holds; None if it diverged."""
RunTrials = Callable[[Sequence[TrainConfig]], Sequence[Outcome]]
"""Runs trials, which may be at the same time; gives their outcomes in the same order."""


def run_trial(config: TrainConfig, **context: Any) -> Outcome:
    """Run one trial, unless it is known to diverge; a trial that diverges leaves a note of it.

    Args:
        config: of the trial.
        context: what else `run_training` takes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> from selfexplain.training import TrainingOptions
        >>> options = TrainingOptions(epochs=1, lr=1e30)
        >>> out = Path(tempfile.mkdtemp()) / "trial"
        >>> data = DataOptions(data="digits")
        >>> run_trial(TrainConfig(data=data, training=options, out=out)) is None
        True
    """
    note = config.out.with_name(f"{config.out.name}.diverged.json")
    if note.exists():
        return None
    try:
        return run_training(config, **context)
    except DivergedError as error:
        if first_process():
            write_json(note, {"error": str(error)})
        return None
