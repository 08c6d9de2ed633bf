"""Watch one forward: what modules return, and what functions between them are given."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from selfexplain.explanations.kinds import check_logits
from selfexplain.explanations.layout import Layout, known_grids, layouts_of, pooled
from selfexplain.explanations.model_state import preserved, recomputing, run_eagerly, set_eval

# See what functions are given, all the time or only between two modules.


class ArgumentWatch(TorchFunctionMode):
    """Show every tensor that a torch function is given to ``look``.

    Pooling is often a function of something that no module returned, as in
    ``F.avg_pool2d(F.relu(self.bn(h)), 8)``; only the call itself shows its input.

    Example:
        >>> import torch
        >>> with ArgumentWatch(lambda tensor: print(tuple(tensor.shape))):
        ...     _ = torch.ones(2, 3).sum()
        (2, 3)
    """

    def __init__(self, look: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.look = look

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments, then call ``func``."""
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                self.look(value)
        return func(*args, **kwargs)


class WeightWatch(TorchFunctionMode):
    """Keep the weight and the bias that the last ``F.linear`` was given.

    To read the weight of a parametrised layer is to compute it, which may change what it is
    computed from: spectral normalisation moves its vectors. So it is seen where it is used.

    Example:
        >>> head = nn.Linear(2, 3)
        >>> with WeightWatch() as watch:
        ...     _ = head(Tensor([[1.0, 2.0]]))
        >>> watch.used[0] is head.weight
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.used: tuple[Tensor, Tensor | None] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look for the weight, then call ``func``."""
        kwargs = kwargs or {}
        if func is F.linear:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.used = named["weight"], named.get("bias")
        return func(*args, **kwargs)


@contextmanager
def watched_between(
    model: nn.Module, opens: nn.Module, closes: nn.Module, look: Callable[[Tensor], None]
) -> Iterator[None]:
    """Watch arguments from the end of ``opens`` to the start of ``closes`` in each forward.

    Watching costs some 7 microseconds a call, which is felt in a whole forward but not in the few
    calls between two modules. If ``opens`` is the model itself, watching starts with its forward.

    Example:
        >>> model, sizes = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 1)), []
        >>> with watched_between(model, model[0], model[2], lambda t: sizes.append(t.numel())):
        ...     _ = model(Tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        >>> sizes
        [4]
    """
    with ExitStack() as stack:
        window = stack.enter_context(ExitStack())

        def start(*_: Any) -> None:
            if recomputing():
                return
            window.close()  # if the module has been called before
            window.enter_context(ArgumentWatch(look))

        def stop(*_: Any) -> None:
            window.close()

        whole = opens is model
        register = opens.register_forward_pre_hook if whole else opens.register_forward_hook
        stack.callback(register(start).remove)
        stack.callback(closes.register_forward_pre_hook(stop).remove)
        yield


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


def probe(x_BCHW: Tensor) -> Tensor:
    """A few images to look at a model with: copies, out of reach of models that start in place.

    Noise stands in for images of one colour, for which the mean of a feature map is its maximum,
    too: a head on either would look like a head on the other. It has a generator of its own.

    Example:
        >>> probe(torch.ones(4, 3, 8, 8)).shape
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
    x_BCHW = probe(x_BCHW)
    trace = Trace(x_BCHW.shape)
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW))
        stack.enter_context(lent or nullcontext())
        stack.enter_context(torch.no_grad())
        weights = WeightWatch()
        stack.enter_context(_watched(model, trace, weights))
        set_eval(model)
        if any(isinstance(m, nn.Linear) and is_parametrized(m) for m in model.modules()):
            stack.enter_context(weights)
        with ArgumentWatch(lambda tensor: trace.see(tensor, None)):
            logits = model(x_BCHW)
    trace.logits_BK = check_logits(logits, len(x_BCHW))
    return trace


@contextmanager
def _watched(model: nn.Module, trace: Trace, weights: WeightWatch) -> Iterator[None]:
    """Hook all modules of ``model`` for the time of the block."""
    with ExitStack() as stack:
        stack.enter_context(run_eagerly(model.modules()))
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(_note(trace, name, weights)).remove)
        yield


def used_weight(linear: nn.Linear, watch: WeightWatch) -> tuple[Tensor, Tensor | None] | None:
    """The weight and the bias that a layer has just been called with; None if they are not known.

    Example:
        >>> head, watch = nn.Linear(2, 3), WeightWatch()
        >>> used_weight(head, watch)[1] is head.bias
        True
    """
    if is_parametrized(linear):
        return watch.used
    return linear.weight, linear.bias


def _note(trace: Trace, name: str, weights: WeightWatch) -> Callable[[nn.Module, Any, Any], None]:
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
            used = used_weight(module, weights)
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
