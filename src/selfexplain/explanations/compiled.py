"""Let what `torch.compile` compiled run as it was written, so that hooks inside of it run too.

Compiled code is a copy of the forward pass as it was when it was made: hooks that come later are
not in it, and it says nothing of that.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

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
    modules = list(modules)
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

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU()))
        >>> [type(module).__name__ for module in modules_around(model, "0.0")]
        ['Sequential', 'Sequential', 'ReLU']
    """
    around = [model]
    for part in filter(None, name.split(".")):
        around.append(getattr(around[-1], part))
    return around
