"""How large a network is, counted as the papers on architecture search count."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError


def count_parameters(network: nn.Module) -> int:
    """Number of trainable numbers: weights, scales and shifts, but not those of an auxiliary head.

    Args:
        network: any module; what lies below a submodule named `auxiliary` is left out.

    Example:
        >>> count_parameters(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)))
        232
    """
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if "auxiliary" not in name.split(".")
    )


def count_multiply_adds(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-adds of all convolutions and linear layers for one image, in evaluation mode.

    NAS-Bench-201 and the papers on DARTS count so: a convolution's multiplications, and a linear
    layer's with its bias; not BatchNorm, activations, pooling and sums. Nothing is computed, and
    the network stays as it was.

    Args:
        network: maps images (1, C, H, W) to anything.
        image_shape: (C, H, W).

    Raises:
        InputError: the shape has not three numbers.

    Example:
        >>> count_multiply_adds(nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 4, 4))
        3456
    """
    if len(image_shape) != 3:
        raise InputError(f"image_shape is {tuple(image_shape)}; pass (channels, height, width)")
    counts: list[int] = []

    def listen(module: nn.Module, _: Any, output: Tensor) -> None:
        places = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        counts.append(places * (weight.numel() + (0 if bias is None else weight.shape[0])))

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(listen) for layer in layers]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        # on the meta device shapes are worked out, and numbers neither needed nor computed
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        on_meta = {name: tensor.detach().to("meta") for name, tensor in state.items()}
        image = torch.empty(1, *image_shape, device="meta", dtype=_type_of(network))
        torch.func.functional_call(network, on_meta, (image,))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return sum(counts)


def _type_of(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters()), torch.float32)
