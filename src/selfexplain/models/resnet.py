"""Residual networks for small images (He et al. 2016, "Deep Residual Learning", section 4.2).

`CifarResNet` is the paper's own thin network (6n + 2 layers, 16 to 64 channels, shortcuts without
parameters). `resnet18` is the ImageNet network with the stem that small images need: one 3x3
convolution of stride 1 and no max-pooling.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.models.pointwise import PointwiseConv2d


class ZeroPadShortcut(nn.Module):
    """Shortcut without parameters (option A): every second pixel, zeros for the new channels."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, C + new_channels, ceil(H/2), ceil(W/2))."""
        return F.pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Shortcut with a 1x1 convolution and BatchNorm (option B)."""
    return nn.Sequential(PointwiseConv2d(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the shortcut (None: the identity)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = shortcut if shortcut is not None else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride) of (B, inputs, H, W)."""
        h = self.relu(self.bn1(self.conv1(x_BCHW)))
        out: Tensor = self.relu(self.bn2(self.conv2(h)) + self.shortcut(x_BCHW))
        return out


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, average pooling and a linear head.

    Args:
        widths: channels of each stage; every stage but the first halves the resolution.
        blocks: basic blocks in each stage.
        num_classes: number of classes K.
        in_channels: channels C of the images.
        option: "A" for shortcuts without parameters, "B" for 1x1 projections.

    Shapes:
        input (B, C, H, W); output (B, K) logits.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int = 3,
        option: str = "B",
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(
                _stage(inputs[i], widths[i], blocks[i], stride=1 if i == 0 else 2, option=option)
                for i in range(len(widths))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)
        _he_initialisation(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.head(self.pool(self.stages(self.stem(x_BCHW))).flatten(1))
        return logits_BK


def _stage(inputs: int, outputs: int, blocks: int, stride: int, option: str) -> nn.Sequential:
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        shortcut = (
            ZeroPadShortcut(outputs - inputs)
            if option == "A"
            else projection_shortcut(inputs, outputs, stride)
        )
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def _he_initialisation(model: nn.Module) -> None:
    """He et al. 2015: normal weights with variance 2 / fan_out for the convolutions."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def cifar_resnet(depth: int, num_classes: int, in_channels: int = 3) -> ResNet:
    """The thin network of `depth` = 6n + 2 layers: 20, 32 or 56 (He et al. 2016, section 4.2)."""
    n = (depth - 2) // 6
    return ResNet((16, 32, 64), (n, n, n), num_classes, in_channels, option="A")


def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-18 with a 3x3 stem, for images of about 32x32 pixels."""
    return ResNet((64, 128, 256, 512), (2, 2, 2, 2), num_classes, in_channels)


# Wide residual networks (Zagoruyko and Komodakis 2016, "Wide Residual Networks").


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, added to the shortcut.

    The 1x1 shortcut, where the shape changes, starts from the activated input, as published.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = PointwiseConv2d(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride) of (B, inputs, H, W)."""
        active = F.relu(self.bn1(x_BCHW))
        skip = x_BCHW if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + skip
        return out


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of pre-activation blocks, average pooling, linear head.

    Args:
        depth: 6n + 4 layers.
        widen: factor on the channels (16, 32, 64).
        num_classes: number of classes K.
        in_channels: channels C of the images.

    Shapes:
        input (B, C, H, W); output (B, K) logits.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        n = (depth - 4) // 6
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage in range(3):
            blocks.append(
                PreactivationBlock(widths[stage], widths[stage + 1], 1 if stage == 0 else 2)
            )
            blocks.extend(
                PreactivationBlock(widths[stage + 1], widths[stage + 1], 1) for _ in range(n - 1)
            )
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Sequential(nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        features = self.norm(self.blocks(self.stem(x_BCHW)))
        logits_BK: Tensor = self.head(self.pool(features).flatten(1))
        return logits_BK


# A network for short trainings with large batches on a GPU.


class FastCNN(nn.Module):
    """Eight convolutions, wide and few, for trainings of seconds on a GPU.

    A stem, three convolutions that each halve the resolution by max-pooling, and pairs of
    convolutions with a shortcut after the first and the last of them. In the manner of Page's
    ResNet-9 (2018, "How to train your ResNet") and Jordan's airbench (2024), but with average
    pooling before the head, so that the logits are a linear map of an averaged feature map, from
    which class maps are read.

    Args:
        num_classes: number of classes K.
        in_channels: channels C of the images.
        widths: channels of the stem and of the three halving convolutions.

    Shapes:
        input (B, C, H, W) with H and W of at least 8; output (B, K) logits.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: tuple[int, int, int, int] = (64, 128, 384, 512),
    ) -> None:
        super().__init__()
        stem, first, second, third = widths
        self.stem = _activated(in_channels, stem)
        self.blocks = nn.Sequential(
            FastBlock(stem, first, pair=True),
            FastBlock(first, second, pair=False),
            FastBlock(second, third, pair=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(third, num_classes)
        _he_initialisation(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.head(self.pool(self.blocks(self.stem(x_BCHW))).flatten(1))
        return logits_BK


class FastBlock(nn.Module):
    """A 3x3 convolution whose result is halved by max-pooling; then, or not, a residual pair.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        pair: whether two more convolutions with a shortcut follow.
    """

    def __init__(self, inputs: int, outputs: int, *, pair: bool) -> None:
        super().__init__()
        # Pooled before BatchNorm, which then has a quarter of the places to normalise.
        self.halved = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.GELU(),
        )
        pairs = [*_activated(outputs, outputs), *_activated(outputs, outputs)] if pair else []
        self.pair = nn.Sequential(*pairs)  # flat, so that the block is compiled as one

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, outputs, H // 2, W // 2) of (B, inputs, H, W)."""
        h: Tensor = self.halved(x_BCHW)
        return h + self.pair(h) if len(self.pair) else h


def _activated(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, GELU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )
