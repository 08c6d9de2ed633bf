"""From an optimizer's name to the optimizer: which parameters are moved, and by what rule.

A new one is a function in `OPTIMIZERS`, and its name and rates in `training/options.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.training.options import LR, WEIGHT_DECAY, OptimizerName

Group = dict[str, Any]
"""Parameters, and how an optimizer moves them: what `torch.optim` calls a parameter group."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    *,
    decay_vectors: bool = True,
    split_hidden: bool = False,
    lr_scales: Mapping[int, float] | None = None,
) -> list[Group]:
    """The parameters of a module in groups that an optimizer treats alike; each is in one.

    Args:
        module: a model, or an objective around one.
        weight_decay: of the parameters that decay.
        decay_vectors: whether biases and the scales of norms decay too, as all of one dimension or
            none are.
        split_hidden: whether groups say which parameters are `hidden_weights`, as `hidden`.
        lr_scales: factor on the learning rate of parameters by their `id`, kept in a group as
            `lr_scale`; 1 for others.

    Returns:
        Groups that are not empty; within each the parameters are in the module's order.
    """
    hidden = {id(weight) for weight in hidden_weights(module)} if split_hidden else set()
    groups: dict[tuple[bool, bool, float], Group] = {}
    for parameter in module.parameters():
        decays = decay_vectors or parameter.ndim > 1
        scale = 1.0 if lr_scales is None else lr_scales.get(id(parameter), 1.0)
        kind = id(parameter) in hidden, decays, scale
        if kind not in groups:
            groups[kind] = {"params": [], "weight_decay": weight_decay if decays else 0.0}
            if split_hidden:
                groups[kind]["hidden"] = kind[0]
            if lr_scales is not None:
                groups[kind]["lr_scale"] = scale
        groups[kind]["params"].append(parameter)
    return list(groups.values())


def hidden_weights(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the hidden layers, linear ones and convolutions, which are matrices.

    Not among them: the first and the last layer of the model, other linear layers with as many
    outputs as the last (heads of an objective), and grouped convolutions, which are no one matrix.
    """
    model = getattr(module, "model", module)
    layers = _layers(model)
    if not layers:
        return []
    first, last = layers[0], layers[-1]
    outputs = last.weight.shape[0]
    found = {
        id(layer.weight): layer.weight
        for layer in _layers(module)
        if not (isinstance(layer, nn.Linear) and layer.weight.shape[0] == outputs)
        and getattr(layer, "groups", 1) == 1
    }
    return [w for key, w in found.items() if key not in (id(first.weight), id(last.weight))]


def _layers(module: nn.Module) -> list[Any]:
    """Linear layers and convolutions whose weight is a parameter and not made from others."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) and isinstance(layer.weight, nn.Parameter)
    ]


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the hidden weights, `torch.optim.AdamW` for all other parameters.

    Muon takes matrices alone: a convolution's weight (O, I, H, W) is given to it as the matrix
    (O, I * H * W) that it multiplies patches by. Its steps are scaled to AdamW's size (Liu et al.
    2025, "Muon is scalable for LLM training"), so that one learning rate and one weight decay serve
    both.

    Args:
        groups: as `parameter_groups` makes them with `split_hidden`.
        lr: learning rate.
        momentum: of Muon, and AdamW's first beta.

    Raises:
        InputError: this version of PyTorch has no Muon.
    """

    def __init__(self, groups: list[Group], lr: float, momentum: float = 0.9) -> None:
        check_optimizer("muon")
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                (self._step_hidden if group["hidden"] else self._step_others)(group, moved)
        return loss

    # torch's optimizers are made for one step, on our state: so loading, copying and moving a model
    # to another device work as with any other optimizer.

    def _step_hidden(self, group: Group, moved: list[nn.Parameter]) -> None:
        matrices = [p.detach().flatten(1) for p in moved]  # copies, where channels come last
        muon = torch.optim.Muon(
            matrices,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            adjust_lr_fn="match_rms_adamw",
        )
        for p, matrix in zip(moved, matrices, strict=True):
            matrix.grad = _gradient(p).flatten(1)
            muon.state[matrix] = self.state[p]
        muon.step()  # type: ignore[no-untyped-call]
        for p, matrix in zip(moved, matrices, strict=True):
            if matrix.data_ptr() != p.data_ptr():
                p.copy_(matrix.view(p.shape))

    def _step_others(self, group: Group, moved: list[nn.Parameter]) -> None:
        adamw = torch.optim.AdamW(
            moved,
            lr=group["lr"],
            betas=(group["momentum"], ADAMW_BETA2),
            weight_decay=group["weight_decay"],
        )
        adamw.state = self.state
        adamw.step()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


ADAMW_BETA2 = 0.999
"""Decay of the mean of squared gradients; torch's own value."""


def _sgd(groups: list[Group], lr: float, momentum: float, nesterov: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def _adamw(
    groups: list[Group], lr: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    del nesterov
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, ADAMW_BETA2))


def _muon(groups: list[Group], lr: float, momentum: float, nesterov: bool) -> torch.optim.Optimizer:
    del nesterov
    return MuonAdamW(groups, lr, momentum)


OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "muon": _muon,
}
"""Name -> function of (groups, lr, momentum, nesterov)."""


def check_optimizer(name: str) -> None:
    """Raise InputError unless there is an optimizer of this name, and this PyTorch has it.

    Example:
        >>> check_optimizer("lion")
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no optimizer 'lion'; pass sgd, adamw or muon
    """
    if name not in OPTIMIZERS:
        *others, last = OPTIMIZERS
        raise InputError(f"there is no optimizer {name!r}; pass {', '.join(others)} or {last}")
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise InputError(
            f"optimizer muon needs PyTorch 2.9 or later, and this is {torch.__version__}; "
            "pass --optimizer adamw or sgd"
        )


def make_optimizer(
    name: OptimizerName,
    parameters: nn.Module | Iterable[nn.Parameter],
    *,
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    decay_vectors: bool = True,
    nesterov: bool = True,
    lr_scales: Mapping[int, float] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer of all parameters of a module.

    Args:
        name: sgd, adamw, or muon (`MuonAdamW`).
        parameters: a module, such as an objective; or parameters alone, for sgd and adamw.
        lr: learning rate; None for 0.1 with sgd, 0.001 with adamw and muon.
        momentum: of sgd and Muon; first beta of AdamW.
        weight_decay: None for 5e-4 with sgd, which adds it to the gradient, and 0.05 with adamw and
            muon, which shrink weights by lr times it: equal parts of a weight, at these rates.
        decay_vectors: as of `parameter_groups`; for a module.
        nesterov: whether sgd's momentum is Nesterov's.
        lr_scales: as of `parameter_groups`, for a module; see `finetune.parameter_scales`.

    Raises:
        InputError: there is no such optimizer here, or it needs a module and is given parameters.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> make_optimizer("sgd", net).param_groups[0]["lr"]
        0.1
        >>> type(make_optimizer("adamw", net, lr=1e-4)).__name__
        'AdamW'
    """
    check_optimizer(name)
    lr = LR[name] if lr is None else lr
    decay = WEIGHT_DECAY[name] if weight_decay is None else weight_decay
    if isinstance(parameters, nn.Module):
        groups = parameter_groups(
            parameters,
            decay,
            decay_vectors=decay_vectors,
            split_hidden=name == "muon",
            lr_scales=lr_scales,
        )
        for group in groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
    elif name == "muon":
        raise InputError(
            "muon has to know the layers that parameters belong to; pass the module in their place"
        )
    else:
        groups = [{"params": list(parameters), "weight_decay": decay}]
    return OPTIMIZERS[name](groups, lr, momentum, nesterov)
