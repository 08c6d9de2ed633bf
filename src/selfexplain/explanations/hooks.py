"""Hooks on modules and on torch functions, for the forwards in a block and no longer.

All that watches a forward of a model goes through ``forward_hooks`` and ``function_hook``: the
search for the explained layer (``tracing.py``), its activation in training (``capture.py``), and
the objectives that read feature maps.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from selfexplain.explanations.layout import find_module

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""Given the module, its inputs and its output; returns what goes on in its place, None for it."""

Place = tuple[str, Literal["input", "output"]]
"""A module's name, and whether a forward is met where it enters the module or where it leaves."""

FunctionHook = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
"""Given a torch function and the arguments that it is about to be called with."""


@dataclass(frozen=True, slots=True)
class ForwardHook:
    """What to call at one place of a forward.

    Attributes:
        place: in the model.
        call: the hook; its output is None where the place is a module's input.
        recomputed: called in its place where a checkpointed part runs again in a backward pass,
            which is no forward of its own but must do the same operations; None for nothing.

    Example:
        >>> ForwardHook(("layer4", "output"), print).place
        ('layer4', 'output')
    """

    place: Place
    call: Hook
    recomputed: Hook | None = None

    def register(self, module: nn.Module) -> Callable[[], None]:
        """Hook the module; return what removes the hook.

        A backward pass that began before, as that in which a whole step is run again, is no
        recomputation: what is hooked within it is a forward of its own.
        """
        began = _backward_pass()

        def run(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
            call = self.call if _backward_pass() == began else self.recomputed
            return None if call is None else call(module, inputs, output)

        if self.place[1] == "input":
            return module.register_forward_pre_hook(run).remove
        return module.register_forward_hook(run).remove


@contextmanager
def forward_hooks(model: nn.Module, hooks: Iterable[ForwardHook]) -> Iterator[None]:
    """Hook modules of a model for the time of the block; also errors remove the hooks.

    What is compiled around a hooked module runs meanwhile as it was written: compiled code would
    pass over the hook, and say nothing of that.

    Raises:
        InputError: a module is not in the model.

    Example:
        >>> model, shapes = nn.Sequential(nn.Flatten(), nn.ReLU()), []
        >>> def note(module, inputs, output):
        ...     shapes.append(tuple(output.shape))
        >>> with forward_hooks(model, [ForwardHook(("0", "output"), note)]):
        ...     _ = model(torch.ones(2, 3, 4))
        >>> shapes
        [(2, 12)]
    """
    around = [(hook, modules_around(model, hook.place[0])) for hook in hooks]
    with ExitStack() as stack:
        stack.enter_context(run_eagerly([module for _, path in around for module in path]))
        for hook, path in around:
            stack.callback(hook.register(path[-1]))
        yield


def every_output(
    model: nn.Module, call: Callable[[str], Hook], recomputed: Hook | None = None
) -> list[ForwardHook]:
    """A hook on the output of each module, made by ``call`` from the module's name."""
    names = [name for name, _ in model.named_modules()]
    return [ForwardHook((name, "output"), call(name), recomputed) for name in names]


def _backward_pass() -> int:
    """Number of the backward pass that this thread is in, -1 for none."""
    return torch._C._current_graph_task_id()  # noqa: SLF001  (as torch.utils.checkpoint asks)


# Functions between modules, whose arguments no module returns.


class function_hook(TorchFunctionMode):  # noqa: N801  (used as a context manager, as torch's own)
    """Call a hook before every torch function of the block.

    Pooling is often a function of something that no module returned, as in
    ``F.avg_pool2d(F.relu(self.bn(h)), 8)``; only the call itself shows its input.

    Example:
        >>> with function_hook(each_tensor(lambda tensor: print(tuple(tensor.shape)))):
        ...     _ = torch.ones(2, 3).sum()
        (2, 3)
    """

    def __init__(self, call: FunctionHook) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the hook, then ``func``."""
        kwargs = kwargs or {}
        self.call(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def function_hook_between(
    model: nn.Module, call: FunctionHook, opens: Place, closes: Place
) -> Iterator[None]:
    """Call a hook before torch functions between two places of each forward.

    A hook costs some 7 microseconds a function, which is felt in a whole forward but not in the few
    calls between two modules.

    Example:
        >>> model, sizes = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 1)), []
        >>> look = each_tensor(lambda tensor: sizes.append(tensor.numel()))
        >>> with function_hook_between(model, look, opens=("0", "output"), closes=("2", "input")):
        ...     _ = model(Tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        >>> sizes
        [4]
    """
    with ExitStack() as window:

        def start(*_: Any) -> None:
            window.close()  # if the place has been passed before
            window.enter_context(function_hook(call))

        def stop(*_: Any) -> None:
            window.close()

        with forward_hooks(model, [ForwardHook(opens, start), ForwardHook(closes, stop)]):
            yield


def each_tensor(look: Callable[[Tensor], None]) -> FunctionHook:
    """A hook that shows ``look`` every tensor that a function is given."""

    def call(_function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                look(value)

    return call


# Let what `torch.compile` compiled run as it was written, so that hooks inside of it run too.
#
# Compiled code is a copy of the forward pass as it was when it was made: hooks that come later
# are not in it, and it says nothing of that.


CALL = "_compiled_call_impl"
"""Where torch keeps what a compiled module runs in place of its own call; None for nothing."""


@contextmanager
def run_eagerly(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run those of the modules that are compiled as they were written, for the time of the block.

    A module is compiled by its own `compile()`, or as a whole by `torch.compile(module)`. In the
    second case all compiled code rests meanwhile. Modules that are not named keep their code.

    Args:
        modules: those that hooks lie on or in; see `modules_around`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> model.compile(backend="eager")
        >>> with run_eagerly([model]):
        ...     model._compiled_call_impl is None
        True
        >>> model._compiled_call_impl is None
        False
    """
    modules = dict.fromkeys(modules)
    with ExitStack() as stack:
        if any(hasattr(module, "_orig_mod") for module in modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in modules:
            call = getattr(module, CALL)
            if call is not None:
                stack.callback(setattr, module, CALL, call)
                setattr(module, CALL, None)
        yield


def modules_around(model: nn.Module, name: str) -> list[nn.Module]:
    """The module of that name and those that it lies in, the model first.

    Wrappers may have changed the names since the name was found; only then all modules are walked.

    Raises:
        InputError: there is no such module.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU()))
        >>> [type(module).__name__ for module in modules_around(model, "0.0")]
        ['Sequential', 'Sequential', 'ReLU']
    """
    around = [model]
    try:
        for part in filter(None, name.split(".")):
            around.append(getattr(around[-1], part))
    except AttributeError:
        return modules_around(model, find_module(model, name)[0])
    return around
