"""A classifier on a stage in the middle of a network.

Shape suffixes: B batch, C channels, F features, H and W space, K classes.
"""

import math

from torch import Tensor, nn

from selfexplain.objectives.probe import Stage
from selfexplain.objectives.stages import Staging


class ShallowClassifier(nn.Module):
    """A bottleneck from a stage to the deepest features, and a linear layer on them.

    1x1 convolution to a quarter of the features, 3x3 convolutions of stride 2 down to the deepest
    resolution, 1x1 convolution to the deepest features (each with BatchNorm and ReLU), mean over
    space, linear layer.

    Args:
        stage: whose output it takes.
        staging: how the model ends.

    Example:
        >>> import torch
        >>> staging = Staging(stages=(), side=4, head="fc", features=8, classes=3)
        >>> classifier = ShallowClassifier(Stage("layer1", 0, channels=2, side=16), staging)
        >>> logits_BK, features_BF = classifier(torch.zeros(5, 2, 16, 16))
        >>> logits_BK.shape, features_BF.shape
        (torch.Size([5, 3]), torch.Size([5, 8]))
    """

    def __init__(self, stage: Stage, staging: Staging) -> None:
        super().__init__()
        width = max(staging.features // 4, 1)
        halvings = max(round(math.log2(stage.side / staging.side)), 0)
        self.bottleneck = nn.Sequential(
            _convolution(stage.channels, width, kernel=1),
            *(_convolution(width, width, kernel=3, stride=2) for _ in range(halvings)),
            _convolution(width, staging.features, kernel=1),
        )
        self.linear = nn.Linear(staging.features, staging.classes)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, F) of a stage's feature map."""
        features_BF = self.bottleneck(map_BCHW).mean(dim=(2, 3))
        return self.linear(features_BF), features_BF


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
