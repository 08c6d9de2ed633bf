"""Weights that the logits do not hang on: a cell with `none` may have operations that lead nowhere.

In the benchmarks they count as the network's; they cannot learn.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call

from selfexplain.explanations.state import preserved, set_eval


def freeze_unreached(network: nn.Module, image_shape: Sequence[int]) -> list[str]:
    """Ask for no gradient of weights that get none; training on several devices waits for each.

    Only the graph is looked at: nothing is computed, and images of any size take no memory.

    Args:
        network: maps images (B, C, H, W) to logits; what lies below a submodule named `auxiliary`
            is taken for reached.
        image_shape: (C, H, W).

    Returns:
        Names of the frozen parameters.

    Example:
        >>> from selfexplain.spaces import build_network, load_genotype
        >>> cell = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|"
        >>> network = build_network(
        ...     load_genotype(cell), num_classes=3, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> freeze_unreached(network, (1, 8, 8))[0]
        'blocks.0.edges.nodes.0.0.after.0.layers.0.weight'
    """
    named = [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and "auxiliary" not in name.split(".")
    ]
    image = torch.empty(1, *image_shape, device="meta", dtype=named[0][1].dtype)
    stand_ins = {
        name: torch.empty_like(parameter, device="meta", requires_grad=True)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    buffers = {name: torch.empty_like(b, device="meta") for name, b in network.named_buffers()}
    with preserved(network, image), torch.enable_grad():
        set_eval(network)
        logits = functional_call(network, {**stand_ins, **buffers}, (image,))
        gradients = torch.autograd.grad(
            logits.sum(), [stand_ins[name] for name, _ in named], allow_unused=True
        )
    unreached = [pair for pair, grad in zip(named, gradients, strict=True) if grad is None]
    for _, parameter in unreached:
        parameter.requires_grad_(False)
    return [name for name, _ in unreached]
