"""A small convolutional network for quick experiments: three blocks and a pooled linear head."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three blocks of 3x3 convolution, BatchNorm and ReLU; two max-poolings; a pooled linear head.

    Args:
        num_classes: number of classes K.
        in_channels: channels C of the images.
        width: channels of the first block; the second and third have twice and four times as many.

    Shapes:
        input (B, C, H, W) with H, W >= 4; output (B, K) logits;
        last feature map (B, 4 width, H / 4, W / 4).

    Example:
        >>> import torch
        >>> SmallCNN(num_classes=10, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.block1 = _block(in_channels, width)
        self.block2 = _block(width, 2 * width)
        self.block3 = _block(2 * width, 4 * width)
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        h = self.halve(self.block1(x_BCHW))
        h = self.block3(self.halve(self.block2(h)))
        logits_BK: Tensor = self.head(self.pool(h).flatten(1))
        return logits_BK


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
