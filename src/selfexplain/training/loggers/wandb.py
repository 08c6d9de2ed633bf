"""A run of Weights & Biases: offline in the run's folder, unless the user sets WANDB_MODE."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from selfexplain.errors import InputError, first_line
from selfexplain.training.log import run_id


class WeightsAndBiases:
    """One run of Weights & Biases, the same one however often ours is continued.

    Its id is kept in `wandb/run-id` in the folder. WANDB_MODE, WANDB_PROJECT, WANDB_NAME and the
    other variables of wandb hold; without WANDB_MODE nothing leaves this machine.

    Args:
        folder: of the run; wandb's files go into `wandb` in it.
        hyperparameters: configuration of the run, nested.

    Raises:
        InputError: wandb cannot log where the user told it to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> logger = WeightsAndBiases(folder, {"seed": 0})
        >>> logger.log({"loss": 0.5}, epoch=1)
        >>> logger.close(failed=False)
        >>> len(list(folder.glob("wandb/offline-run-*/*.wandb")))
        1
    """

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any]) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "selfexplain"),
                name=os.environ.get("WANDB_NAME", folder.name),
                id=run_id(folder / "wandb" / "run-id", hyperparameters, _new_id),
                # In offline mode wandb has nothing to resume, and would say so each time.
                resume=None if mode == "offline" else "allow",
                dir=folder,
                config=dict(hyperparameters),
                mode=mode,
                reinit="create_new",  # a run that the user has open stays open
                settings=wandb.Settings(console="off", silent=mode == "offline"),
            )
        except (wandb.Error, ValueError, OSError) as error:
            raise InputError(
                f"Weights & Biases cannot log with WANDB_MODE={mode} ({first_line(error)}); log in "
                "with: wandb login, or pass WANDB_MODE=offline"
            ) from error

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Log the numbers of one epoch; one that is run again replaces nothing there."""
        self._run.log(dict(numbers), step=epoch)

    def finish(self, scores: Mapping[str, float]) -> None:
        """Put the final scores into the run's summary."""
        self._run.summary.update({f"final/{name}": value for name, value in scores.items()})

    def close(self, *, failed: bool) -> None:
        """End the run; online this waits until all is sent."""
        self._run.finish(exit_code=int(failed))


def _new_id() -> str:
    return secrets.token_hex(4)
