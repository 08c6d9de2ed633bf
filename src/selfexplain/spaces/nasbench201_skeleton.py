"""The skeleton around the cells of NAS-Bench-201 (Dong and Yang, ICLR 2020, section 2.1).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Callable

from torch import Tensor, nn


class ResidualReduction(nn.Module):
    """Residual block between two stages: half the resolution, twice the channels.

    Shapes:
        input (B, C, H, W), H and W even; output (B, 2 C, H / 2, W / 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_relu_conv_bn(channels, 2 * channels, stride=2),
            *_relu_conv_bn(2 * channels, 2 * channels, stride=1),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of the next stage."""
        out: Tensor = self.convolutions(x_BCHW) + self.shortcut(x_BCHW)
        return out


def _relu_conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class NASBench201Network(nn.Module):
    """Stem, three stages of cells with residual reductions between them, pooled linear head.

    Args:
        make_cell: makes a cell of so many channels.
        num_classes: number of classes K.
        in_channels: channels of the images.
        channels: channels of the first stage.
        cells: cells N of each stage.

    Shapes:
        input (B, C, H, W), H and W divisible by 4; output (B, K) logits.
    """

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        cells: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        blocks: list[nn.Module] = []
        for stage in range(3):
            if stage > 0:
                blocks.append(ResidualReduction(channels))
                channels *= 2
            blocks.extend(make_cell(channels) for _ in range(cells))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x_BCHW: Tensor, *for_cells: Tensor) -> Tensor:
        """Logits (B, K); what comes after the images is handed to every cell."""
        h = self.stem(x_BCHW)
        for block in self.blocks:
            h = block(h) if isinstance(block, ResidualReduction) else block(h, *for_cells)
        logits_BK: Tensor = self.head(self.pool(self.norm(h)).flatten(1))
        return logits_BK
