"""Small networks of every kind that selfexplain makes; as a program, their derivatives on a CPU.

`python small_networks.py` walks forward, backward and double backward of each and prints its name
first: if memory is found damaged, the last name is that of the network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.oracles.spaces import plain_logits
from torch import Tensor, nn

from selfexplain.models.build import SmallCNN
from selfexplain.models.efficientnet_lite import InvertedResidual
from selfexplain.models.resnet import (
    FastCNN,
    PreactivationBlock,
    ResNet,
    ZeroPadShortcut,
    projection_shortcut,
)
from selfexplain.objectives.byot import BYOT
from selfexplain.spaces import Genotype, build_network, build_supernet, random_genotype
from selfexplain.spaces.darts import AuxiliaryHead
from selfexplain.spaces.standalone import source_of

BATCH, IN_CHANNELS, SIZE = 6, 2, 16
SEARCHED = {"nasbench201": (2, 3, 5, 7), "darts": (2, 6), "pcdarts": (8, 24)}
"""Space -> channels of its supernets; pcdarts convolves a quarter of them."""


class Searched(nn.Module):
    """A supernet with its architecture, or its plain twin."""

    def __init__(
        self, space: str, channels: int, image_size: int = SIZE, *, plain: bool = False
    ) -> None:
        super().__init__()
        # the size decides whether edges are bundled; the images have another
        self.supernet = build_supernet(
            space,
            num_classes=3,
            in_channels=IN_CHANNELS,
            image_size=image_size,
            channels=channels,
            cells=1 if space == "nasbench201" else 3,
        )
        self.architecture = nn.ParameterDict(self.supernet.new_architecture())
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        architecture = dict(self.architecture)
        if self.plain:
            return plain_logits(self.supernet, x, architecture)
        out: Tensor = self.supernet(x, architecture)
        return out


class StageClassifiers(nn.Module):
    """The loss of a network whose stages have classifiers of their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.byot = BYOT(model, image_shape=(IN_CHANNELS, SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.byot(x, torch.arange(len(x)) % 3)["loss"]
        return loss


def genotype_that_halves_by_skipping() -> Genotype:
    """With a skip connection of stride 2, which is a factorised reduction."""
    generator = torch.Generator().manual_seed(0)
    while True:
        genotype = random_genotype("darts", generator)
        edges = [edge for node in genotype.cells["reduce"].nodes for edge in node]
        if {("skip_connect", 0), ("skip_connect", 1)} <= {(e.operation, e.source) for e in edges}:
            return genotype


def derived(family: str, channels: int, cells: int = 3, form: Any = "small") -> nn.Module:
    chosen = random_genotype("nasbench201", torch.Generator().manual_seed(0))
    return build_network(
        genotype_that_halves_by_skipping() if family == "darts" else chosen,
        num_classes=3,
        in_channels=IN_CHANNELS,
        image_size=SIZE if form == "small" else 64,
        channels=channels,
        cells=cells,
        form=form,
    )


def exported(channels: int, cells: int = 3, form: Any = "small") -> nn.Module:
    scope: dict[str, Any] = {}
    genotype = genotype_that_halves_by_skipping()
    sizes = {"in_channels": IN_CHANNELS, "channels": channels, "cells": cells}
    exec(source_of(genotype, num_classes=3, **sizes, form=form), scope)
    network: nn.Module = scope["Network"]()
    return network


def resnet(width: int, option: str) -> nn.Module:
    widths = (width, 2 * width, 4 * width)
    return ResNet(widths, (1, 1, 1), 3, IN_CHANNELS, option=option)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"supernet {space}, {channels} channels": lambda space=space, channels=channels: Searched(
            space, channels
        )
        for space, widths in SEARCHED.items()
        for channels in widths
    },
    **{
        f"supernet {space}, edge by edge": lambda space=space: Searched(
            space, SEARCHED[space][0], image_size=256
        )
        for space in ("nasbench201", "pcdarts")
    },
    **{
        f"twin of {space}": lambda space=space: Searched(space, SEARCHED[space][0], plain=True)
        for space in SEARCHED
    },
    "derived darts, 2 channels": lambda: derived("darts", 2),
    "derived darts, 6 channels": lambda: derived("darts", 6),
    "derived darts for ImageNet, 2 channels": lambda: derived("darts", 2, form="imagenet"),
    "derived darts for ImageNet, 6 channels": lambda: derived("darts", 6, form="imagenet"),
    **{
        f"derived nasbench201, {n} channels": lambda n=n: derived("nasbench201", n, cells=1)
        for n in (2, 3, 5, 7)
    },
    "exported darts, 2 channels": lambda: exported(2),
    "exported darts for ImageNet, 4 channels": lambda: exported(4, form="imagenet"),
    **{f"ResNet, {n} channels": lambda n=n: resnet(n, "B") for n in (2, 3, 5, 7)},
    "ResNet with shortcuts of zeros, 3 channels": lambda: resnet(3, "A"),
    **{
        f"block of a wide ResNet, {n} channels": lambda n=n: nn.Sequential(
            nn.Conv2d(IN_CHANNELS, n, 3, padding=1), PreactivationBlock(n, n + 1, 2)
        )
        for n in range(2, 8)
    },
    **{
        f"shortcut of {n} channels by {step}": lambda n=n, step=step: nn.Sequential(
            nn.Conv2d(IN_CHANNELS, n, 3, padding=1), projection_shortcut(n, 4, step)
        )
        for n in range(1, 8)
        for step in (2, 4)
    },
    "shortcut of zeros": lambda: ZeroPadShortcut(3),
    **{
        f"inverted residual of {n} channels by {step}": lambda n=n, step=step: nn.Sequential(
            nn.Conv2d(IN_CHANNELS, n, 3, padding=1),
            InvertedResidual(n, n, kernel=5, stride=step, expansion=n - 1),
        )
        for n in (2, 5)
        for step in (1, 2)
    },
    "small CNN": lambda: SmallCNN(3, IN_CHANNELS),
    **{
        f"fast CNN, {n} channels": lambda n=n: FastCNN(3, IN_CHANNELS, (n, n + 1, 2 * n, n + 2))
        for n in (2, 5)
    },
    "auxiliary head, 4 channels": lambda: nn.Sequential(
        nn.Conv2d(IN_CHANNELS, 4, 3, padding=1),
        AuxiliaryHead(4, 3, stride=3, second_norm=True),
    ),
    "classifiers on the stages of a ResNet": lambda: StageClassifiers(resnet(3, "B")),
}
"""Name -> a network, of random weights, for images (BATCH, IN_CHANNELS, SIZE, SIZE)."""


def images(name: str) -> Tensor:
    """Images that a network takes."""
    side = 64 if "ImageNet" in name else SIZE
    return torch.randn(BATCH, IN_CHANNELS, side, side)


def derivatives(network: nn.Module, x: Tensor) -> list[Tensor]:
    """First derivatives by weights and images of some number, and those of their squares' sum."""
    wrt = [x.requires_grad_(), *network.parameters()]
    first = torch.autograd.grad(
        network(x).square().sum(), wrt, create_graph=True, allow_unused=True
    )
    squares = sum(g.square().sum() for g in first if g is not None)
    second = torch.autograd.grad(squares, wrt, allow_unused=True)
    return [g.detach() for g in (*first, *second) if g is not None]


def walk_all() -> None:
    kept: list[list[Tensor]] = []  # memory is looked at when it is freed: not all at once
    for name, make in NETWORKS.items():
        print(name, flush=True)
        network = make()
        layouts = [torch.contiguous_format, torch.channels_last]
        for layout in layouts[isinstance(network, Searched) :]:  # searches know one layout
            network.to(memory_format=layout)
            kept = [
                *kept[-2:],
                derivatives(network, images(name).contiguous(memory_format=layout)),
            ]


if __name__ == "__main__":
    maps = Path("/proc/self/maps")
    if not maps.exists() or "libc_malloc_debug" not in maps.read_text():
        raise SystemExit("not preloaded")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    walk_all()
