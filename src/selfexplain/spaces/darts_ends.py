"""What stands before and beside the cells of DARTS: stems and auxiliary heads (Liu et al. 2019).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from torch import Tensor, nn


class SmallStem(nn.Module):
    """One 3x3 convolution to three times the channels; both inputs of the first cell.

    Attributes:
        channels: of both outputs.
        reduces_last: the second output has half the resolution of the first.
        halvings: how often the resolution is halved in all.
    """

    reduces_last = False
    halvings = 0

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = 3 * channels
        self.layers = nn.Sequential(*_conv_bn(in_channels, self.channels, stride=1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 3 C, H, W), twice."""
        h = self.layers(x_BCHW)
        return h, h


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2; the first cell reads what the last two of them return.

    Attributes are those of `SmallStem`.
    """

    reduces_last = True
    halvings = 3

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Sequential(
            *_conv_bn(in_channels, channels // 2, stride=2),
            nn.ReLU(),
            *_conv_bn(channels // 2, channels, stride=2),
        )
        self.second = nn.Sequential(nn.ReLU(), *_conv_bn(channels, channels, stride=2))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H / 4, W / 4) and (B, C, H / 8, W / 8)."""
        h = self.first(x_BCHW)
        return h, self.second(h)


def _conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class AuxiliaryHead(nn.Module):
    """Logits from features in the middle of the network, an aid to its training.

    The published head fits one size of features; here an average over what is left of the space
    makes it fit larger ones, and changes nothing at the published size.

    Args:
        channels: channels C of the features.
        num_classes: number of classes K.
        stride: of the pooling: 3 in the small form, 2 in the ImageNet form.
        second_norm: a BatchNorm after the second convolution: the small form alone has one.

    Shapes:
        input (B, C, H, W) with H, W at least 5 + stride; output (B, K).
    """

    def __init__(self, channels: int, num_classes: int, *, stride: int, second_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=stride),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768) if second_norm else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(768, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of features (B, C, H, W)."""
        logits_BK: Tensor = self.head(self.features(x_BCHW).flatten(1))
        return logits_BK
