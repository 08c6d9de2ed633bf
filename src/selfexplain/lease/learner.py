"""A network whose weights are moved along gradients that were computed elsewhere."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from selfexplain.lease.options import Rates
from selfexplain.multilevel import Processes, as_function
from selfexplain.multilevel.module import Function
from selfexplain.multilevel.processes import ALONE


class Learner:
    """A network, the SGD that moves it, and the calls that keep or leave its running statistics.

    Args:
        module: the network; it is put in training mode.
        lr: start learning rate.
        rates: the rest.

    Example:
        >>> learner = Learner(nn.Linear(2, 1, bias=False), 0.1, Rates(weight_decay=0.0))
        >>> before = learner.weights["weight"].clone()
        >>> learner.move({"weight": torch.ones(1, 2)})
        >>> torch.allclose(before - learner.weights["weight"], torch.tensor([[0.1, 0.1]]))
        True
    """

    def __init__(self, module: nn.Module, lr: float, rates: Rates) -> None:
        self.module = module.train()
        self.start_lr, self.rates = lr, rates
        trainable = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(
            trainable, lr=lr, momentum=rates.momentum, weight_decay=rates.weight_decay
        )
        self._statistics: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trainable parameters by name, without a graph, in the module's memory."""
        return {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return float(self.optimiser.param_groups[0]["lr"])

    def set_lr(self, factor: float) -> None:
        """Set the learning rate between its end (factor 0) and its start value (1)."""
        low = min(self.rates.lr_min, self.start_lr)
        self.optimiser.param_groups[0]["lr"] = low + (self.start_lr - low) * factor

    def move(self, gradient: dict[str, Tensor]) -> None:
        """One step along a gradient by name."""
        parameters = dict(self.module.named_parameters())
        for name, found in gradient.items():
            parameters[name].grad = found
        nn.utils.clip_grad_norm_(parameters.values(), self.rates.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def own_step(self, buffers: dict[str, Tensor] | None = None) -> Function:
        """The network as a function of its parameters whose first call is its own training step.

        The first call moves the running statistics, which `keep_statistics` then takes over; every
        later one, at displaced parameters, leaves them alone.

        Args:
            buffers: running statistics to move in place of the module's own.
        """
        kept = dict(self.module.named_buffers()) if buffers is None else buffers
        moved = {name: buffer.clone() for name, buffer in kept.items()}
        self._statistics.append((kept, moved))
        later = as_function(self.module, kept)
        calls = 0

        def function(weights: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                return functional_call(self.module, {**moved, **weights}, arguments)
            return later(weights, *arguments)

        return function

    def keep_statistics(self, keep: bool, processes: Processes = ALONE) -> None:
        """Take the running statistics of the own steps since the last call, or drop them.

        With several processes their means are taken; counts are the same in all.
        """
        for kept, moved in self._statistics if keep else ():
            floats = [name for name in moved if moved[name].is_floating_point()]
            means = processes.mean([moved[name] for name in floats])
            moved.update(zip(floats, means, strict=True))
            for name, buffer in kept.items():
                buffer.copy_(moved[name])
        self._statistics.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, in memory of its own."""
        state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
        return copy.deepcopy(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
