"""The hypergradient by differentiating through the whole chain of steps (reverse over reverse)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from selfexplain.errors import InputError
from selfexplain.hypergradients.level import (
    Level,
    Unrolled,
    Variables,
    constants,
    detached,
    fresh,
    gradients,
    like,
    random_state,
    set_random_state,
)

# BatchNorm of primitive operations: right in every derivative, slower.


def primitive_batch_norm(
    x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """Normalise (B, C, ...) by the batch's own mean and variance, as BatchNorm does in training.

    Running statistics are neither read nor written.
    """
    across = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - x.mean(across, keepdim=True)
    y = centred * (centred.square().mean(across, keepdim=True) + eps).rsqrt()
    if weight_C is not None:
        y = y * weight_C.reshape(shape)
    return y if bias_C is None else y + bias_C.reshape(shape)


class PrimitiveBatchNorm(TorchFunctionMode):
    """While active, every BatchNorm in training mode is computed by `primitive_batch_norm`.

    The fused one returns wrong third derivatives in training mode (pytorch issue 186256). Running
    statistics are updated as usual.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a BatchNorm that normalises with the batch's statistics; pass on the rest."""
        if func is F.batch_norm:
            given = batch_norm_arguments(args, kwargs)
            if given.get("training", False):
                _update_statistics(given)
                return primitive_batch_norm(
                    given["input"],
                    given.get("weight"),
                    given.get("bias"),
                    given.get("eps", 1e-5),
                )
        return func(*args, **(kwargs or {}))


def _update_statistics(given: Mapping[str, Any]) -> None:
    """Update the running statistics, if there are any, as torch's BatchNorm does."""
    if given.get("running_mean") is None:
        return
    x, momentum = given["input"].detach(), given.get("momentum", 0.1)
    across = [d for d in range(x.dim()) if d != 1]
    with torch.no_grad():
        given["running_mean"].lerp_(x.mean(across), momentum)
        given["running_var"].lerp_(x.var(across), momentum)


_ARGUMENTS = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "training",
    "momentum",
    "eps",
)
"""Parameters of torch's batch_norm in their order."""


def batch_norm_arguments(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a call of torch's batch_norm by name."""
    return dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs or {})


FUSED_BATCH_NORM = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormImpl")
"""Autograd nodes whose third derivatives are wrong in training mode (pytorch issue 186256)."""


def unroll_exact(
    levels: Sequence[Level],
    outers: Sequence[Callable[[Variables], Tensor]],
    variables: Variables,
    wrt: str,
) -> list[Unrolled]:
    """Unroll the levels and differentiate through every step, by automatic differentiation.

    The steps are taken once for all outer losses, which draw the same random numbers. Cost and
    memory grow with the number of levels, as each step's graph is kept. From three levels on,
    BatchNorm in training mode is computed of primitive operations: each loss is differentiated
    twice at most, where the fused one is right, unless a loss holds a gradient itself.

    Raises:
        InputError: there are three levels or more and a level's loss nevertheless runs a fused
            BatchNorm (one that was compiled, say), whose third derivatives are silently wrong.
    """
    target = fresh(variables[wrt])
    seen = constants(levels, variables) | {wrt: target}
    losses, found = {}, {}
    deep = len(levels) > 2
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if deep:
            stack.enter_context(PrimitiveBatchNorm())
        for level in levels:
            own = fresh(variables[level.name])
            view = {**seen, level.name: own}
            losses[level.name], gradient = level.gradient(view, create_graph=True)
            if deep:
                _check_no_fused_batch_norm(level.name, losses[level.name])
            found[level.name] = gradient
            seen[level.name] = level.updated(own, gradient)
        hypergradients, values = [], []
        before = random_state()
        for number, outer in enumerate(outers):
            set_random_state(before)
            value = outer(seen)
            more = number + 1 < len(outers)
            hypergradients.append(like(target, gradients(value, target, retain_graph=more)))
            values.append(value.detach())
    return [
        Unrolled(
            hypergradient=hypergradient,
            outer=value,
            losses={name: loss.detach() for name, loss in losses.items()},
            gradients={name: detached(gradient) for name, gradient in found.items()},
            stepped={level.name: detached(seen[level.name]) for level in levels},
        )
        for value, hypergradient in zip(values, hypergradients, strict=True)
    ]


def _check_no_fused_batch_norm(level: str, loss: Tensor) -> None:
    if name := _fused_batch_norm(loss.grad_fn):
        raise InputError(
            f"the loss of level {level} runs {name}, whose third derivatives are wrong; "
            "use a BatchNorm of primitive operations, another mode, or two levels"
        )


def _fused_batch_norm(root: Any) -> str | None:
    """Name of the first fused BatchNorm in a graph."""
    todo, visited = [root], set()
    while todo:
        node = todo.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if any(name in node.name() for name in FUSED_BATCH_NORM):
            return str(node.name())
        todo.extend(following for following, _ in node.next_functions)
    return None
