"""A tiny model and tiny images that the tests of recorders train, in whatever loop."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

CLASSES, SIZE = 3, 64
MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.25, 0.2]


class Tiny(nn.Module):
    """A user's own network, that is not called with num_classes and in_channels."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.head = nn.Linear(4, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.features(x_BCHW).mean((2, 3)))
        return logits_BK


def tiny(num_classes: int, in_channels: int) -> nn.Module:
    return Tiny(num_classes, in_channels)


def wider(num_classes: int, in_channels: int) -> nn.Module:
    return Tiny(num_classes + 1, in_channels)


def of_transformers(num_classes: int, in_channels: int) -> nn.Module:
    """A classifier of transformers that returns logits."""
    import transformers

    from selfexplain.models.hub import Logits

    config = transformers.ResNetConfig(
        num_channels=in_channels,
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        num_labels=num_classes,
    )
    return Logits(transformers.ResNetForImageClassification(config))


class Images(Dataset):
    """Normalised images as one data set after another has them: pairs, or dictionaries."""

    def __init__(self, *, named: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (12, 3, SIZE, SIZE), generator=generator)
        self.pixels_NCHW = pixels.to(torch.uint8)
        mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
        self.x_NCHW = (self.pixels_NCHW / 255 - mean) / std
        self.named = named

    def __len__(self) -> int:
        return len(self.x_NCHW)

    def __getitem__(self, i: int) -> object:
        label = i % CLASSES
        if self.named:
            return {"pixel_values": self.x_NCHW[i], "labels": label}
        return self.x_NCHW[i], label


def flat(num_classes: int, in_channels: int) -> nn.Module:
    """A model that no map can be read from."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * SIZE * SIZE, num_classes))
