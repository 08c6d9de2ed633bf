"""EfficientNet-Lite, small networks that know ImageNet (Tan and Le 2019; Liu 2020).

EfficientNet without squeeze-and-excitation, with ReLU6 for swish, and with a stem and a last layer
that do not grow. Dropout and stochastic depth, parts of the published training, are left out.

Shape suffixes: B batch, C channels, H and W space, K classes, F features.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (
    # kernel, stride, expansion, outputs, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, FEATURES = 32, 1280
EPS = 1e-3


@dataclass(frozen=True, slots=True)
class LiteSize:
    """How a network differs from the smallest one, and the side of the images it was trained on."""

    width: float
    depth: float
    image_size: int


SIZES = {
    "efficientnet_lite0": LiteSize(1.0, 1.0, 224),
    "efficientnet_lite1": LiteSize(1.0, 1.1, 240),
    "efficientnet_lite2": LiteSize(1.1, 1.2, 260),
}
"""Name -> size, as published."""


class SameConv2d(nn.Conv2d):
    """Convolution with a stride whose output has ceil(side / stride) pixels, as TensorFlow pads.

    Where the zeros cannot be the same on both sides, one more is below and right.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of the padded image."""
        height, width = x_BCHW.shape[-2:]
        above, below = self._zeros(height, 0)
        left, right = self._zeros(width, 1)
        return super().forward(F.pad(x_BCHW, (left, right, above, below)))

    def _zeros(self, side: int, axis: int) -> tuple[int, int]:
        """Zeros before and after a side."""
        stride = self.stride[axis]
        total = max((math.ceil(side / stride) - 1) * stride + self.kernel_size[axis] - side, 0)
        return total // 2, total - total // 2


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    if stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _layer(convolution: nn.Conv2d, *, bends: bool = True) -> nn.Sequential:
    """A convolution, BatchNorm and, if it bends, ReLU6."""
    norm = nn.BatchNorm2d(convolution.out_channels, eps=EPS)
    return nn.Sequential(convolution, norm, *([nn.ReLU6(inplace=True)] if bends else []))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and 1x1 projection, added to the input where it fits."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _layer(_convolution(inputs, wide)) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(_convolution(wide, wide, kernel, stride, groups=wide))
        self.project = _layer(_convolution(wide, outputs), bends=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, outputs, ceil(H / stride), ceil(W / stride)) of (B, inputs, H, W)."""
        out: Tensor = self.project(self.depthwise(self.expand(x_BCHW)))
        return out + x_BCHW if self.adds else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: a stem, inverted residuals, 1280 features, their mean and a linear head.

    Args:
        num_classes: number of classes K.
        in_channels: channels C of the images.
        size: how much wider and deeper than lite0 it is.

    Shapes:
        input (B, C, H, W) of any size; output (B, K) logits;
        last feature map (B, 1280, ceil(H / 32), ceil(W / 32)).
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, size: LiteSize = SIZES["efficientnet_lite0"]
    ) -> None:
        super().__init__()
        self.stem = _layer(_convolution(in_channels, STEM, 3, 2))
        self.blocks = nn.Sequential()
        inputs = STEM
        for number, (kernel, stride, expansion, published, count) in enumerate(STAGES):
            outputs = scaled_width(published, size.width)
            deepens = 0 < number < len(STAGES) - 1  # the first and the last stage stay as they are
            for i in range(math.ceil(count * size.depth) if deepens else count):
                self.blocks.append(
                    InvertedResidual(
                        inputs,
                        outputs,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                    )
                )
                inputs = outputs
        self.features = _layer(_convolution(inputs, FEATURES))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(FEATURES, num_classes)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        features_BFHW = self.features(self.blocks(self.stem(x_BCHW)))
        logits_BK: Tensor = self.head(self.pool(features_BFHW).flatten(1))
        return logits_BK


def scaled_width(channels: int, factor: float) -> int:
    """Channels times a factor, to the nearest multiple of 8, at most a tenth below it."""
    wanted = channels * factor
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _initialise(model: nn.Module) -> None:
    """Normal weights with variance 2 / fan-out; of a depthwise kernel that is its own area."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            area = math.prod(module.kernel_size)
            fan_out = area * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the naming of the published PyTorch files, in the naming of `EfficientNetLite`."""
    return {_own_name(name): tensor for name, tensor in weights.items()}


_PLACES = {
    "_conv_stem": "stem.0",
    "_bn0": "stem.1",
    "_conv_head": "features.0",
    "_bn1": "features.1",
    "_fc": "head",
}
_PLACES_IN_BLOCK = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def _own_name(name: str) -> str:
    *block, layer, tensor = name.split(".")
    if not block:
        return f"{_PLACES.get(layer, layer)}.{tensor}"
    return f"blocks.{block[-1]}.{_PLACES_IN_BLOCK.get(layer, layer)}.{tensor}"
