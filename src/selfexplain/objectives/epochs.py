"""Objectives that look back at the epoch before must be told where one begins."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives.memory import EXTRA, Counts


class Epochs(nn.Module):
    """Which epoch of how many is walked; in checkpoints, so that one made within an epoch goes on.

    Example:
        >>> epochs = Epochs()
        >>> epochs.begun
        False
        >>> epochs.begin(1, 4)
        True
        >>> epochs.done(), epochs.begun
        ((2, 4), True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts(epoch=0, epochs=0)
        self._continued = False
        """Whether a checkpoint was loaded since an epoch was begun."""

    @property
    def begun(self) -> bool:
        """Whether any epoch was."""
        return self.counts["epochs"] > 0

    def begin(self, epoch: int, epochs: int) -> bool:
        """Take note of an epoch, counted from 0; whether it is a new one.

        It is not if a checkpoint was made within it: some loops tell again what goes on.
        """
        again = self._continued and self.begun and self.counts["epoch"] == epoch
        self.counts["epoch"], self.counts["epochs"] = epoch, epochs
        self._continued = False
        return not again

    def done(self) -> tuple[int, int]:
        """How many epochs will be done when this one is, and how many there are."""
        return self.counts["epoch"] + 1, self.counts["epochs"]

    def check_begun(self) -> None:
        """Raise InputError if a step of training comes before the first `begin_epoch`.

        Without it the objective would silently be another one, since it never looks back.
        """
        if not self.begun:
            raise InputError(
                "this objective learns from the epoch before; call objective.begin_epoch(epoch, "
                "epochs) before each epoch, with epochs counted from 0"
            )

    def get_extra_state(self) -> Tensor:
        """Epoch and number of epochs, (2,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Take back what `get_extra_state` gave."""
        self.counts.load(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; checkpoints of version 0.1.0 do not say which epoch they are of."""
        told = prefix + EXTRA in state_dict
        state_dict.setdefault(prefix + EXTRA, self.counts.tensor_N)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._continued = told


class RisingShare:
    """For objectives whose share of what is remembered rises with the epochs, as in PS-KD.

    Example:
        >>> rising = RisingShare()
        >>> rising.alpha, rising.epochs = 0.8, Epochs()
        >>> rising.begin_epoch(0, epochs=4)
        >>> rising.share
        0.2
    """

    alpha: float
    """The share in the last epoch."""
    epochs: Epochs

    @property
    def share(self) -> float:
        """alpha_t of the epoch that is walked; 0 before the first."""
        done, epochs = self.epochs.done()
        return self.alpha * done / epochs if epochs else 0.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Raise the share to alpha (epoch + 1) / epochs."""
        self.epochs.begin(epoch, epochs)

    def skip_warmup(self) -> None:
        """Behave as in the last epoch."""
        self.epochs.begin(0, 1)  # which is the last
