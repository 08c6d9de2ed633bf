"""Watch one forward pass: which modules return feature maps, and which layer the logits.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.compiled import run_eagerly
from selfexplain.explanations.kinds import check_logits
from selfexplain.explanations.state import preserved, set_eval


@dataclass(frozen=True, slots=True)
class Stage:
    """The output (B, C, H, W) of a module, in one of its calls in a forward pass.

    Example:
        >>> Stage("layer1", call=0, channels=64, side=32).name
        'layer1'
    """

    name: str
    call: int
    channels: int
    side: int


@dataclass(slots=True)
class Probe:
    """What modules returned in one forward pass, in order.

    Example:
        >>> probe(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4)).head()
        ('1', 16)
    """

    classes: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """Of each module that was called: the number of its last call, from 0."""
    maps: list[tuple[Stage, bool]] = field(default_factory=list)
    """Outputs (B, C, H, W), and whether the module has parameters."""
    linear: list[tuple[str, torch.Size, Tensor]] = field(default_factory=list)
    """Linear layers, with the shape of what they were given, and what they returned."""
    logits_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    returned: dict[str, str] = field(default_factory=dict)
    """Of each module: what its last call returned, for messages."""

    def note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Take in one call of a module."""
        call = self.calls[name] = self.calls.get(name, -1) + 1
        shape = getattr(output, "shape", None)
        self.returned[name] = type(output).__name__ if shape is None else str(tuple(shape))
        if isinstance(output, Tensor) and output.ndim == 4:
            stage = Stage(name, call, output.shape[1], output.shape[2])
            self.maps.append((stage, any(True for _ in module.parameters())))
        if isinstance(module, nn.Linear) and isinstance(output, Tensor):
            self.linear.append((name, inputs[0].shape, output.clone()))

    def deepest_side(self) -> int:
        """Of the last feature map that was learned; what follows it is pooled from it."""
        return next((stage.side for stage, learned in reversed(self.maps) if learned), 0)

    def head(self) -> tuple[str, int]:
        """Name of the linear layer that returns the logits, and how many features it is given.

        What comes after it may scale or shift them; of several layers, one must return them.
        """
        alike = [
            (name, given, returned)
            for name, given, returned in self.linear
            if len(given) == 2 and returned.shape[1] == self.classes
        ]
        exact = [each for each in alike if torch.equal(each[2], self.logits_BK)]
        if exact or (len(alike) == 1 and alike[0][0] == self.linear[-1][0]):
            name, given, _ = (exact or alike)[-1]
            return name, given[1]
        raise InputError(
            "the model does not end in an nn.Linear of one vector for each image; pass a model "
            "with such a head"
        )


def probe(model: nn.Module, image_shape: tuple[int, int, int]) -> Probe:
    """Watch a forward pass of two black images in evaluation mode; the model is left as it was.

    Raises:
        InputError: the model does not return logits.

    Example:
        >>> probe(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4)).classes
        3
    """
    like = next(model.parameters(), torch.zeros(()))
    x_BCHW = torch.zeros(2, *image_shape, dtype=like.dtype, device=like.device)
    seen = Probe()
    with preserved(model, x_BCHW), torch.no_grad(), ExitStack() as stack:
        set_eval(model)
        stack.enter_context(run_eagerly(model.modules()))
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(_noting(seen, name)).remove)
        logits_BK = model(x_BCHW)
    seen.logits_BK = check_logits(logits_BK, len(x_BCHW))
    seen.classes = seen.logits_BK.shape[1]
    return seen


def _noting(seen: Probe, name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, inputs, output: seen.note(name, module, inputs, output)
