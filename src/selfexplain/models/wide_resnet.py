"""Wide residual networks (Zagoruyko and Komodakis 2016, "Wide Residual Networks")."""

import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.models.pointwise import PointwiseConv2d


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

    Example:
        >>> import torch
        >>> WideResNet(10, 1, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
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
