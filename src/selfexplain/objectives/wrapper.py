"""An objective around another one."""

from typing import Any

from torch import nn

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
        nn.Module.__init__(self)  # Objective's would register the model, which has its name inside
        self.objective = objective
        self.period = objective.period

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The model of the objective inside; registered there alone, as savers want each once."""
        return self.objective.model

    def skip_warmup(self) -> None:
        """Take the objective inside past its warm-up."""
        self.objective.skip_warmup()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the objective inside that an epoch begins."""
        self.objective.begin_epoch(epoch, epochs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; version 0.1.0 saved the model twice, under `model` too, and some savers once."""
        for name in [name for name in state_dict if name.startswith(f"{prefix}model.")]:
            inside = f"{prefix}objective.{name.removeprefix(prefix)}"
            state_dict.setdefault(inside, state_dict.pop(name))
        super()._load_from_state_dict(state_dict, prefix, *args)
