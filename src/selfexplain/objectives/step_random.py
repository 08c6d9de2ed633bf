"""An objective's own random numbers, the same again when a run is continued."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selfexplain.objectives.memory import Counts


class StepRandom(nn.Module):
    """A generator for each training step, made from a seed and the count of steps.

    Both are kept in the extra state, so that a resumed run draws what the unbroken one would have
    drawn. The seed is drawn from the global generator when the objective is built; afterwards that
    one is left alone.

    Example:
        >>> random = StepRandom()
        >>> first = torch.rand(3, generator=random.generator("cpu"))
        >>> bool((torch.rand(3, generator=random.generator("cpu")) == first).all())
        True
        >>> random.advance()
        >>> bool((torch.rand(3, generator=random.generator("cpu")) == first).all())
        False
    """

    def __init__(self) -> None:
        super().__init__()
        # On the CPU, whose generator it is, wherever modules are made by default.
        seed = int(torch.randint(2**62, (), device="cpu"))
        self.counts = Counts(seed=seed, step=0)

    def generator(self, device: torch.device | str) -> torch.Generator:
        """The generator of this step; a new one, at its start, at each call."""
        return torch.Generator(device).manual_seed(self.counts["seed"] + self.counts["step"])

    def advance(self) -> None:
        """Go to the next step."""
        self.counts["step"] += 1

    def get_extra_state(self) -> Tensor:
        """What a checkpoint needs: seed and step, (2,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Take back what `get_extra_state` gave."""
        self.counts.load(state)
