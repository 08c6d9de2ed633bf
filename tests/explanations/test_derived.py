"""Explanations of networks derived from genotypes: of the main head, also beside another."""

import pytest
import torch
from torch import nn

from selfexplain.errors import InputError
from selfexplain.explanations import (
    capture,
    class_maps,
    find_explained_layer,
    find_pooled_head,
    maps_of_forward,
)
from selfexplain.explanations.layers import last_responsive_layer
from selfexplain.spaces import build_network, load_genotype

SKIPS = "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


def derived(genotype: str, image_size: int = 16, cells: int = 1, auxiliary: bool = False):
    torch.manual_seed(0)
    network = build_network(
        load_genotype(genotype),
        num_classes=5,
        in_channels=1,
        image_size=image_size,
        channels=4,
        cells=cells,
        auxiliary=auxiliary,
        drop_path=0.3,
    )
    for _ in range(3):  # statistics that are not the initial ones
        network(torch.randn(8, 1, image_size, image_size))
    return network


CASES = [
    ("published:DARTS_V2", 1, True, "cells.0"),
    ("published:DARTS_V2", 3, False, "cells.2"),
    (CONVOLUTIONS, 1, False, "norm"),
    (SKIPS, 2, False, "norm"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("genotype", "cells", "auxiliary", "layer"), CASES)
def test_the_main_head_and_the_last_feature_map_are_found(
    genotype: str, cells: int, auxiliary: bool, layer: str, training: bool
) -> None:
    network, x = derived(genotype, 16, cells, auxiliary).train(training), torch.randn(4, 1, 16, 16)
    found = find_pooled_head(network, x)
    assert (found.name, found.linear) == ("head", network.head)
    assert (found.source.at, found.source.name) == ("output", layer)
    assert last_responsive_layer(network, x)[0] == layer
    with capture(network, find_explained_layer(network, x)) as seen:
        logits_BK = network(x)
    maps_BKHW = maps_of_forward(seen, logits_BK)
    expected = maps_BKHW.mean(dim=(2, 3)) + network.head.bias
    torch.testing.assert_close(expected, logits_BK)  # dropped paths and all


@pytest.mark.parametrize("kind", ["cam", "grad_cam", "gradient"])
def test_maps_do_not_depend_on_the_auxiliary_head(kind: str) -> None:
    network, x = derived("published:DARTS_V2", auxiliary=True), torch.randn(4, 1, 16, 16)
    network.eval()
    before = class_maps(network, x, kind=kind)
    with torch.no_grad():
        nn.init.normal_(network.auxiliary.head.weight)
    assert torch.equal(class_maps(network, x, kind=kind), before)


@pytest.mark.parametrize(("genotype", "cells"), [("published:DARTS_V2", 3), (CONVOLUTIONS, 1)])
def test_images_too_small_for_a_map_are_named(genotype: str, cells: int) -> None:
    with pytest.raises(InputError, match="has a single position: use larger images"):
        find_pooled_head(derived(genotype, 4, cells), torch.randn(2, 1, 4, 4))
