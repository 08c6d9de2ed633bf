"""Sanity check by randomised weights: a map that does not change says nothing of what was learned.

Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, "Sanity Checks for Saliency Maps", NeurIPS
2018, the cascading randomisation. Shape suffixes: B images, C channels, H and W space.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from selfexplain.explanations.hooks import ForwardHook, forward_hooks, preserved

# Spearman's rank correlation, on the device (B maps, P places).


def average_ranks(values_BP: Tensor) -> Tensor:
    """Rank of each value in its row, from 1; equal values share the mean of their ranks."""
    sorted_BP = values_BP.sort(dim=1).values
    values_BP = values_BP.contiguous()
    below = torch.searchsorted(sorted_BP, values_BP, right=False)
    up_to = torch.searchsorted(sorted_BP, values_BP, right=True)
    # Half ranks are exact in float32 up to 2^23 places; not every device has float64.
    return (below + up_to + 1).to(torch.promote_types(values_BP.dtype, torch.float32)) / 2


def spearman(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """Spearman's rho of two maps, for each image: the correlation of their ranks.

    Returns:
        Correlations (B,) in [-1, 1]; 0 where a map is constant and has no order.

    Example:
        >>> rising, falling = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[9.0, 8.0, 1.0]]])
        >>> spearman(rising, falling) < -0.999
        tensor([True])
    """
    a_BP, b_BP = (average_ranks(m.flatten(1)) for m in (a_BHW, b_BHW))
    a_BP, b_BP = a_BP - a_BP.mean(1, keepdim=True), b_BP - b_BP.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm
    scale_B: Tensor = norm(a_BP, dim=1) * norm(b_BP, dim=1)
    return (a_BP * b_BP).sum(1) / scale_B.where(scale_B > 0, 1)


ExplainModel = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a model, images x_BCHW and classes_B to maps_BHW."""


def weight_stages(model: nn.Module, x_BCHW: Tensor) -> list[list[str]]:
    """Names of the modules that have weights, in stages, from the head down to the images.

    A stage is a module with a weight of two or more axes and the norms and biases that follow it
    in a forward. Modules that are not called themselves belong to the one that they are in.
    """
    called = _in_order_of_calls(model, x_BCHW[:2])
    members: dict[str, list[str]] = {name: [] for name in called}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            members[_called_ancestor(name, called)].append(name)
    modules = dict(model.named_modules())
    stages: list[list[str]] = []
    for names in filter(None, members.values()):
        own = (p for name in names for p in modules[name].parameters(recurse=False))
        if not stages or any(p.dim() > 1 for p in own):
            stages.append([])
        stages[-1] += names
    return stages[::-1]


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw a module's own parameters anew, normal, with the mean and spread that they had.

    There is no one initialisation for all modules, and this one keeps the activations' scale; it
    is our choice. Parameters of its children, and buffers, stay.
    """
    for parameter in module.parameters(recurse=False):
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)


def cascade(
    model: nn.Module, x_BCHW: Tensor, generator: torch.Generator
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of the model that loses its weights stage by stage, from the head down.

    Yields:
        The name of the stage that was randomised last, and the copy: the same module each time.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        >>> generator = torch.Generator().manual_seed(0)
        >>> [name for name, _ in cascade(model, torch.zeros(1, 1, 4, 4), generator)]
        ['2', '0']
    """
    changed = copy.deepcopy(model)
    modules = dict(changed.named_modules())
    for names in weight_stages(model, x_BCHW):
        for name in names:
            randomise(modules[name], generator)
        yield names[0], changed


def cascade_correlations(
    model: nn.Module,
    x_BCHW: Tensor,
    classes_B: Tensor,
    explain: ExplainModel,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Rank correlation of each image's map with that of the model randomised so far.

    Near 1: the map does not depend on the weights that were lost. Lower is better.

    Args:
        model: it is copied, not changed.
        x_BCHW: images.
        classes_B: the class that is explained, the same before and after.
        explain: makes maps (B, H, W) of any model.
        generator: a generator on the CPU, for the weights.

    Returns:
        Spearman's rho (B,) after each stage, by the name of the stage, from the head down.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        >>> def explain(model, x_BCHW, classes_B):
        ...     return model[0](x_BCHW).sum(1).detach()
        >>> x, generator = torch.rand(2, 1, 4, 4), torch.Generator().manual_seed(0)
        >>> list(cascade_correlations(model, x, torch.tensor([0, 1]), explain, generator))
        ['2', '0']
    """
    map_BHW = explain(model, x_BCHW, classes_B)
    return {
        name: spearman(map_BHW, explain(changed, x_BCHW, classes_B))
        for name, changed in cascade(model, x_BCHW, generator)
    }


def _in_order_of_calls(model: nn.Module, x_BCHW: Tensor) -> list[str]:
    """Names of the modules in the order in which a forward enters them first."""
    called: dict[str, None] = {}

    def enter(name: str) -> ForwardHook:
        return ForwardHook((name, "input"), lambda *_: called.setdefault(name))

    hooks = [enter(name) for name, _ in model.named_modules()]
    with preserved(model, x_BCHW, eval_mode=True), torch.no_grad(), forward_hooks(model, hooks):
        model(x_BCHW.clone())
    return list(called)


def _called_ancestor(name: str, called: list[str]) -> str:
    while name not in called:
        name = name.rpartition(".")[0]
    return name
