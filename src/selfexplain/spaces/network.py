"""The network that a genotype stands for.

Shape suffixes: B batch, C channels, H and W space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import Cell, Genotype
from selfexplain.spaces.operations import PREPARATIONS, DropPath, Weighted, operation, set_drop_path
from selfexplain.spaces.space import (
    SPACES,
    Form,
    check_image_size,
    check_numbers,
    check_probability,
)
from selfexplain.spaces.supernet import total

# Discrete cells, as a genotype says; the operations are those of the supernets.


class EdgeOperation(nn.Module):
    """One operation, with scale and shift in its BatchNorms, and drop-path unless it is a skip."""

    def __init__(self, name: str, channels: int, stride: int) -> None:
        super().__init__()
        chosen = operation(name, stride)
        self.preparation = chosen.preparation
        self.stride = stride
        after: list[nn.Module] = []
        if chosen.layers is not None:
            after.append(Weighted(name, channels, stride, affine=True))
        if chosen.preparation != "identity":
            after.append(DropPath())
        self.after = nn.Sequential(*after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The operation's result (B, C, H / stride, W / stride)."""
        out: Tensor = self.after(PREPARATIONS[self.preparation](x_BCHW, self.stride))
        return out

    def extra_repr(self) -> str:
        """What is done before the weights apply, for printing."""
        return f"{self.preparation}, stride={self.stride}"


class Edges(nn.Module):
    """All edges of a cell but those with the operation none; each node is the sum of its edges.

    Args:
        cell: the edges of each node.
        channels: channels C of every node.
        reduced: number of input nodes whose edges have stride 2.
    """

    def __init__(self, cell: Cell, channels: int, reduced: int = 0) -> None:
        super().__init__()
        self.sources = [[e.source for e in node if e.operation != "none"] for node in cell.nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                EdgeOperation(e.operation, channels, 2 if e.source < reduced else 1)
                for e in node
                if e.operation != "none"
            )
            for node in cell.nodes
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The input nodes and the computed nodes."""
        nodes = list(inputs)
        for sources, operations in zip(self.sources, self.nodes, strict=True):
            assert isinstance(operations, nn.ModuleList)
            arrived = [op(nodes[s]) for op, s in zip(operations, sources, strict=True)]
            nodes.append(total(arrived) if arrived else torch.zeros_like(nodes[0]))
        return nodes


def build_network(
    genotype: Genotype,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    channels: int | None = None,
    cells: int | None = None,
    form: Form = "small",
    auxiliary: bool = False,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build the untrained network of a genotype; its weights come from torch's global generator.

    Args:
        genotype: of any family.
        num_classes: number of classes K.
        in_channels: channels C of the images.
        image_size: height and width of the images.
        channels: channels of the first cells; None for the published ones: darts 36, and 48 in the
            imagenet form; nasbench201 16.
        cells: darts: number of cells, None for 20, and 14 in the imagenet form; nasbench201: cells
            of each of the three stages, None for 5.
        form: "small" for images of about 32 pixels; "imagenet" (darts alone) starts with three
            convolutions of stride 2.
        auxiliary: add DARTS' auxiliary head, the submodule `auxiliary`. It runs in training alone;
            a forward hook finds its logits.
        drop_path: probability that an operation's output is dropped; `set_drop_path` changes it.

    Returns:
        A module that maps images (B, C, H, W) to logits (B, K), in training too.

    Raises:
        InputError: a number is out of range, the images are too small or do not halve as often as
            the network reduces, or the family lacks what was asked for.

    Example:
        >>> from selfexplain.spaces import count_parameters, from_string
        >>> cell = from_string(
        ...     "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
        ... )
        >>> network = build_network(cell, num_classes=10, in_channels=3, image_size=32)
        >>> count_parameters(network)
        344346
    """
    check_probability(drop_path)
    space = SPACES[genotype.family]
    channels, cells = space.size(form, channels, cells)
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    check_numbers(**sizes, channels=channels, cells=cells)
    if lacking := space.lacking(form, auxiliary):
        raise InputError(f"{lacking}; pass form='small' and auxiliary=False")
    if problem := space.channels_problem(channels):
        raise InputError(problem)
    check_image_size(image_size, space.halvings(cells, form))
    network = space.network(
        genotype,
        **sizes,
        image_size=image_size,
        channels=channels,
        cells=cells,
        form=form,
        auxiliary=auxiliary,
    )
    set_drop_path(network, drop_path)
    return network


# How large a network is, counted as the papers on architecture search count.


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
