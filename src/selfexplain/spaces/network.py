"""The network that a genotype stands for."""

from functools import partial

from torch import nn

from selfexplain.errors import InputError
from selfexplain.spaces.checks import (
    Form,
    check_divisible,
    check_image_size,
    check_numbers,
    check_probability,
)
from selfexplain.spaces.darts_ends import AuxiliaryHead, ImageNetStem, SmallStem
from selfexplain.spaces.darts_skeleton import CellShape, DARTSNetwork, reductions
from selfexplain.spaces.derived_cells import DARTSCell, NASBench201Cell
from selfexplain.spaces.drop_path import set_drop_path
from selfexplain.spaces.genotype import Genotype
from selfexplain.spaces.nasbench201_skeleton import NASBench201Network


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
    if form not in ("small", "imagenet"):
        raise InputError(f"there is no form {form!r}; pass small or imagenet")
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    channels, cells = published_size(genotype.family, form, channels, cells)
    network: nn.Module
    if genotype.family == "nasbench201":
        check_numbers(**sizes, channels=channels, cells=cells)
        if form != "small" or auxiliary:
            raise InputError(
                "a nasbench201 network has neither an imagenet form nor an auxiliary head; "
                "pass form='small' and auxiliary=False"
            )
        check_image_size(image_size, halvings=2)
        make = partial(NASBench201Cell, genotype.cells["cell"])
        network = NASBench201Network(make, **sizes, channels=channels, cells=cells)
    else:
        check_numbers(**sizes, channels=channels, cells=cells)
        network = _darts_network(genotype, image_size, channels, cells, form, auxiliary, **sizes)
    set_drop_path(network, drop_path)
    return network


def published_size(
    family: str, form: Form, channels: int | None, cells: int | None
) -> tuple[int, int]:
    """Channels of the first cells and number of cells: the given ones, else the published ones.

    Example:
        >>> published_size("darts", "imagenet", None, 8)
        (48, 8)
    """
    published = {"nasbench201": (16, 5)}.get(family, (36, 20) if form == "small" else (48, 14))
    return published[0] if channels is None else channels, published[1] if cells is None else cells


def _darts_network(
    genotype: Genotype,
    image_size: int,
    channels: int,
    cells: int,
    form: Form,
    auxiliary: bool,
    *,
    num_classes: int,
    in_channels: int,
) -> DARTSNetwork:
    stem = (SmallStem if form == "small" else ImageNetStem)(in_channels, channels)
    halvings = stem.halvings + len(reductions(cells))
    check_divisible("darts", channels, 2)
    check_image_size(image_size, halvings)
    stride = 3 if form == "small" else 2
    features = image_size // 2**halvings
    if auxiliary and features < 5 + stride:
        raise InputError(
            f"the auxiliary head needs features of {5 + stride} pixels, and images of {image_size} "
            f"leave {features}; pass an image_size of at least {2**halvings * (5 + stride)}, "
            "or no auxiliary head"
        )

    def make_cell(shape: CellShape) -> nn.Module:
        return DARTSCell(genotype.cells["reduce" if shape.reduces else "normal"], shape)

    def make_auxiliary(inputs: int) -> nn.Module:
        return AuxiliaryHead(inputs, num_classes, stride=stride, second_norm=form == "small")

    return DARTSNetwork(
        make_cell,
        stem,
        num_classes=num_classes,
        channels=channels,
        cells=cells,
        auxiliary=make_auxiliary if auxiliary else None,
    )
