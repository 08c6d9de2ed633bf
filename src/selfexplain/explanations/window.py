"""See what functions are given, all the time or only between two modules."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .state import recomputing


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
