"""An objective around another one."""

from selfexplain.objectives.base import Objective


class Wrapper(Objective):
    """Passes on to the objective inside whatever it needs to be told of the run.

    Subclasses implement `forward`, and call `self.objective` in it.

    Args:
        objective: the one inside; both have one model.

    Example:
        >>> from torch import nn
        >>> from selfexplain.objectives import Standard
        >>> inner = Standard(nn.Linear(2, 3))
        >>> outer = Wrapper(inner)
        >>> outer.model is inner.model, outer.period
        (True, 1)
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective.model)
        self.objective = objective
        self.period = objective.period

    def skip_warmup(self) -> None:
        """Take the objective inside past its warm-up."""
        self.objective.skip_warmup()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the objective inside that an epoch begins."""
        self.objective.begin_epoch(epoch, epochs)
