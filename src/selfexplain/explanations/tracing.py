"""Watch one forward: what modules return, and what functions between them are given."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from selfexplain.explanations.hooks import (
    Hook,
    each_tensor,
    every_output,
    forward_hooks,
    function_hook,
)
from selfexplain.explanations.kinds import check_output
from selfexplain.explanations.layout import Layout, known_grids, layouts_of, pooled
from selfexplain.explanations.model_state import preserved


class LinearWeights:
    """A function hook that keeps the weight and the bias that the last ``F.linear`` was given.

    To read the weight of a parametrised layer is to compute it, which may change what it is
    computed from: spectral normalisation updates its vectors. So it is seen where it is used.

    Example:
        >>> head, weights = nn.Linear(2, 3), LinearWeights()
        >>> with function_hook(weights):
        ...     _ = head(Tensor([[1.0, 2.0]]))
        >>> weights.used[0] is head.weight
        True
    """

    def __init__(self) -> None:
        self.used: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look for the weight."""
        if function is F.linear:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.used = named["weight"], named.get("bias")

    def of(self, linear: nn.Linear) -> tuple[Tensor, Tensor | None] | None:
        """What a layer has just been called with; None if that is not known."""
        return self.used if is_parametrized(linear) else (linear.weight, linear.bias)


# Enough to tell tensors apart by value, and cheap.
N_IMAGES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A tensor with space, seen as output of a module or as argument of a function.

    Its spatial means are taken on sight, as the tensor may be changed in place later.
    """

    tensor: Tensor
    module: str | None  # that returned it; None for arguments of functions
    after: str | None  # the last module that had finished by then
    means: list[tuple[Layout, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class LinearCall:
    """One call of a ``nn.Linear``, and how many sightings had been made before it."""

    name: str
    linear: nn.Linear
    weight: Tensor  # as it was used, which for a parametrised layer is not free to read
    bias: Tensor | None
    input: Tensor
    given_by: str | None  # the last module that returned the very input
    given_has_values: bool  # whether that module has parameters or buffers
    output: Tensor
    sightings: int


@dataclass(slots=True)
class Trace:
    """What was seen in one forward.

    Example:
        >>> trace = traced(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.ones(2, 3, 4, 4))
        >>> trace.logits_BK.shape, trace.linear_calls[0].name
        (torch.Size([2, 5]), '1')
    """

    image_BCHW: torch.Size
    sightings: list[Sighting] = field(default_factory=list)
    linear_calls: list[LinearCall] = field(default_factory=list)
    called: dict[str, nn.Module] = field(default_factory=dict)
    returned: dict[str, str] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    """Of each module: how many sightings had been made when its last call ended."""
    outputs: dict[str, object] = field(default_factory=dict)
    maps: int = 0
    """How many outputs have had four axes."""
    asked: dict[tuple[int, int, int], bool] = field(default_factory=dict)
    """Whether so many tokens, so wide, after so many maps, have the grid that they seem to have."""
    logits_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    busy: bool = False

    def see(self, tensor: object, module: str | None) -> None:
        """Note ``tensor`` if it has space, but not the work of looking at it."""
        if self.busy:
            return
        self.busy = True
        layouts = layouts_of(tensor, self.image_BCHW)
        layouts = self._known(layouts, tensor)
        if layouts and isinstance(tensor, Tensor):
            means = [(layout, pooled(tensor.detach(), layout)) for layout in layouts]
            after = next(reversed(self.called), None)
            self.sightings.append(Sighting(tensor, module, after, means))
        self.busy = False

    def _known(self, layouts: list[Layout], tensor: object) -> list[Layout]:
        """Ask once for each number and width of tokens, and again when a map was seen since."""
        if not isinstance(tensor, Tensor) or not layouts or layouts[0].grid is None:
            return layouts
        key = tensor.shape[1], tensor.shape[2], self.maps
        if key not in self.asked:
            outputs = [*self.outputs.values(), tensor]
            self.asked[key] = bool(known_grids(layouts, outputs, self.image_BCHW))
        return layouts if self.asked[key] else []


def probe_images(x_BCHW: Tensor) -> Tensor:
    """A few images to look at a model with: copies, out of reach of models that start in place.

    Noise stands in for images of one colour, for which the mean of a feature map is its maximum,
    too: a head on either would look like a head on the other. It has a generator of its own.

    Example:
        >>> probe_images(torch.ones(4, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    x_BCHW = x_BCHW.detach()[:N_IMAGES].clone()
    one_colour_B = (x_BCHW == x_BCHW[:, :, :1, :1]).flatten(1).all(dim=1)
    noise_BCHW = torch.rand(x_BCHW.shape, generator=torch.Generator().manual_seed(0)).to(x_BCHW)
    return torch.where(one_colour_B[:, None, None, None], noise_BCHW, x_BCHW)


def traced(
    model: nn.Module, x_BCHW: Tensor, lent: AbstractContextManager[None] | None = None
) -> Trace:
    """Watch a forward of a few images in eval mode, without gradients; nothing else is changed.

    Args:
        model: maps images to logits.
        x_BCHW: images, of which a few are looked at.
        lent: what is in force during the forward, such as ``other_weights``.

    Raises:
        InputError: if the model does not return logits (B, K).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 5))
        >>> seen = traced(model, torch.ones(2, 3, 4, 4)).sightings
        >>> {sighting.module for sighting in seen} == {None, "0"}
        True
    """
    x_BCHW = probe_images(x_BCHW)
    trace, weights = Trace(x_BCHW.shape), LinearWeights()
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW, eval_mode=True))
        stack.enter_context(lent or nullcontext())
        stack.enter_context(torch.no_grad())
        notes = every_output(model, lambda name: _note(trace, name, weights))
        stack.enter_context(forward_hooks(model, notes))
        if any(isinstance(m, nn.Linear) and is_parametrized(m) for m in model.modules()):
            stack.enter_context(function_hook(weights))
        with function_hook(each_tensor(lambda tensor: trace.see(tensor, None))):
            logits = model(x_BCHW)
    trace.logits_BK = check_output(logits, len(x_BCHW))
    return trace


def _note(trace: Trace, name: str, weights: LinearWeights) -> Hook:
    """Make a forward hook that notes a module's output, and that it was the last to finish."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        trace.finished[name] = len(trace.sightings)
        trace.see(output, name)
        given_by = _returned_by(trace, inputs[0]) if inputs else None
        trace.called.pop(name, None)
        trace.outputs[name] = output
        trace.maps += isinstance(output, Tensor) and output.dim() == 4
        trace.called[name] = module
        shape = getattr(output, "shape", None)
        trace.returned[name] = type(output).__name__ if shape is None else str(tuple(shape))
        if isinstance(module, nn.Linear) and inputs and isinstance(output, Tensor):
            used = weights.of(module)
            if used is None:
                return
            given, gave = inputs[0].detach().clone(), output.detach().clone()
            count = len(trace.sightings)
            valued = given_by is not None and _has_values(trace.called[given_by])
            call = LinearCall(name, module, *used, given, given_by, valued, gave, count)
            trace.linear_calls.append(call)

    return hook


def _has_values(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers."""
    tensors = (next(module.parameters(), None), next(module.buffers(), None))
    return any(tensor is not None for tensor in tensors)


def _returned_by(trace: Trace, tensor: object) -> str | None:
    """The last module that returned this very tensor."""
    return next((name for name in reversed(trace.called) if trace.outputs[name] is tensor), None)
