"""Trials of options: ordinary runs that may diverge without ending what they are trials for."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from selfexplain.data import ImageData
from selfexplain.recipes.environment import first_process
from selfexplain.recipes.grid import PATIENCE, loaded, run_grid
from selfexplain.recipes.options import TrainConfig
from selfexplain.recipes.train import StepCallback, run_training
from selfexplain.sweeps import Scheduler, Watch, ignore
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


def run_trials(
    configs: Sequence[TrainConfig],
    scheduler: Scheduler,
    watch: Watch = ignore,
    *,
    fabric: Fabric | None = None,
    data: ImageData | None = None,
    teachers: Path | None = None,
) -> list[Outcome]:
    """Run trials through a scheduler; arguments are those of `grid.run_all`.

    Example:
        >>> from selfexplain.sweeps import InThisProcess
        >>> run_trials([], InThisProcess())
        []
    """

    def here(config: TrainConfig, on_step: StepCallback) -> Outcome:
        return run_trial(config, fabric=fabric, data=data, on_step=on_step, teachers=teachers)

    function = partial(trial_apart, teachers=teachers) if scheduler.apart else here
    return list(run_grid(function, configs, scheduler, watch).complete().values())


def trial_apart(config: TrainConfig, on_step: StepCallback, *, teachers: Path | None) -> Outcome:
    """Run a trial in a worker, which keeps the data set for its next one."""
    return run_trial(
        config,
        data=loaded(config.data),
        on_step=on_step,
        patience=PATIENCE,
        teachers=teachers,
    )
