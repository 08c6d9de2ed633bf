"""Means over an epoch that are summed on the device, so that a step never waits for them."""

import math

import torch
from torch import Tensor


class Meter:
    """Sums of an objective's terms and of right answers.

    Args:
        every: look at the loss's value on every n-th step; each look makes the device wait.

    Example:
        >>> meter = Meter()
        >>> meter.add({"loss": torch.tensor(2.0), "output": torch.eye(2)}, torch.tensor([0, 0]))
        True
        >>> meter.means()
        {'loss': 2.0, 'train_accuracy': 50.0}
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.last_loss = math.nan
        self._sums: dict[str, Tensor] = {}
        self._right: Tensor | None = None
        self._steps = 0
        self._images = 0

    def add(self, out: dict[str, Tensor], y_B: Tensor) -> bool:
        """Take in one step; False if its loss was looked at and is not finite."""
        for name, value in out.items():
            if value.ndim == 0:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        right = (out["output"].detach().argmax(dim=1) == y_B).sum()
        self._right = right if self._right is None else self._right + right
        self._steps += 1
        self._images += len(y_B)
        if not self.looked:
            return True
        self.last_loss = float(out["loss"].detach())
        return math.isfinite(self.last_loss)

    @property
    def looked(self) -> bool:
        """Whether the loss of the last step was looked at."""
        return self._steps % self.every == 0

    def finite(self) -> bool:
        """Whether the sum of all losses so far is finite."""
        return math.isfinite(float(self._sums["loss"]))

    def means(self) -> dict[str, float]:
        """Mean of every scalar term over the steps, and the accuracy on the fly in percent."""
        terms = {name: float(total) / self._steps for name, total in self._sums.items()}
        right = 0.0 if self._right is None else float(self._right)
        return {**terms, "train_accuracy": 100 * right / self._images}
