"""Features of a network that knows ImageNet, frozen, once for all heads of `studies.targets`.

    python -m studies.targets.features --data parquet:data/cifar100 --out data/targets/cifar100.pt

The training split gives a pool, from which each seed draws its own images, and a validation part
that nobody trains on; both are drawn class by class. Of the pool's and of the probe's images (a
part of the test split) the feature maps are kept, too.

Shape suffixes: M images, C features, P places of the last feature map.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from selfexplain.data import ImageData, load_data
from selfexplain.data.images import ImageSet
from selfexplain.errors import exit_on_bad_input
from selfexplain.files import write_tensors
from selfexplain.models import build_model


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig:
    """Compute the features of a data set with an ImageNet network."""

    out: Path
    """File to write."""
    data: str = "parquet:data/cifar100"
    """Data set, as everywhere."""
    model: str = "efficientnet_lite0"
    """Pretrained network with a linear head on averaged features."""
    side: int = 128
    """Pixels to which images are scaled."""
    pool_per_class: int = 100
    """Training images of each class to draw from."""
    validation_per_class: int = 20
    """Training images of each class that settings are chosen on."""
    probe: int = 4000
    """Test images whose feature maps are kept."""


def split_by_class(labels_N: Tensor, *sizes: int) -> list[Tensor]:
    """Places of the first images of each class, part after part, in a drawn order (seed 0)."""
    generator = torch.Generator().manual_seed(0)
    order_N = torch.randperm(len(labels_N), generator=generator)
    parts: list[list[Tensor]] = [[] for _ in sizes]
    for label in labels_N.unique():
        places = order_N[labels_N[order_N] == label]
        for part, chosen in zip(
            parts, places.split([*sizes, len(places) - sum(sizes)]), strict=False
        ):
            part.append(chosen)
    return [torch.cat(part) for part in parts]


@torch.no_grad()
def features_of(
    model: nn.Module,
    images: ImageSet,
    rows_M: Tensor,
    config: FeatureConfig,
    *,
    mirror: bool = False,
) -> Tensor:
    """Feature maps (M, C, P) in half precision."""
    found = []
    for rows_B in rows_M.split(50):
        pixels_BCHW = images.read(rows_B).float()
        x_BCHW = F.interpolate(
            pixels_BCHW, size=(config.side, config.side), mode="bilinear", antialias=True
        )
        x_BCHW = ((x_BCHW.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)
        maps_BCHW = model(x_BCHW.flip(3) if mirror else x_BCHW)
        found.append(maps_BCHW.flatten(2).half())
    return torch.cat(found)


def compute(config: FeatureConfig) -> dict[str, Tensor]:
    """All features of one data set, by name."""
    data: ImageData = load_data(config.data)
    network = build_model(config.model, num_classes=1000, in_channels=3, pretrained=True)
    body = nn.Sequential(network.stem, network.blocks, network.features).eval()
    body = body.to(memory_format=torch.channels_last)
    pool_M, validation_M = split_by_class(
        data.train.labels_N, config.pool_per_class, config.validation_per_class
    )
    pool_MCP = features_of(body, data.train, pool_M, config)
    test_M = torch.randperm(len(data.test.labels_N), generator=torch.Generator().manual_seed(0))
    test_MCP = [features_of(body, data.test, rows, config) for rows in test_M.split(2000)]
    return {
        "pool_maps": pool_MCP,
        "pool_labels": data.train.labels_N[pool_M],
        "pool_mirrored": features_of(body, data.train, pool_M, config, mirror=True).float().mean(2),
        "validation": features_of(body, data.train, validation_M, config).float().mean(2),
        "validation_labels": data.train.labels_N[validation_M],
        "test": torch.cat([maps.float().mean(2) for maps in test_MCP]),
        "test_labels": data.test.labels_N[test_M],
        "probe_maps": torch.cat(test_MCP)[: config.probe].clone(),
    }


def main() -> None:
    """Compute and write them."""
    config = tyro.cli(FeatureConfig)
    with exit_on_bad_input("studies.targets.features"):
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(config.out, compute(config))


if __name__ == "__main__":
    main()
