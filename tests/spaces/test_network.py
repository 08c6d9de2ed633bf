"""Derived networks: the sizes that were published, their heads and paths, what cannot be built."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from selfexplain.errors import InputError
from selfexplain.spaces import (
    build_network,
    count_multiply_adds,
    count_parameters,
    from_string,
    load_genotype,
    random_genotype,
    set_drop_path,
)
from selfexplain.spaces.network import EdgeOperation
from selfexplain.spaces.operations import DropPath

# arch, millions of parameters and multiply-adds: NAS-Bench-201's records (CIFAR-10, 10 classes)
RECORDS = [
    ("|avg_pool_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|", 0.073306, 7.78305),
    (
        "|skip_connect~0|+|avg_pool_3x3~0|none~1|+|nor_conv_1x1~0|skip_connect~1|avg_pool_3x3~2|",
        0.101306,
        11.71521,
    ),
    (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        0.129306,
        15.64737,
    ),
    (
        "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|skip_connect~0|none~1|none~2|",
        0.316346,
        43.17249,
    ),
    (
        "|skip_connect~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|",
        0.344346,
        47.10465,
    ),
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_1x1~1|avg_pool_3x3~2|",
        0.615386,
        86.42625,
    ),
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        1.288506,
        184.73025,
    ),
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        1.531546,
        220.11969,
    ),
]


@pytest.fixture
def on_meta() -> Iterator[None]:
    """Shapes without numbers: the published networks are large."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(("arch", "parameters", "multiply_adds"), RECORDS)
@pytest.mark.usefixtures("on_meta")
def test_nasbench201_records(arch: str, parameters: float, multiply_adds: float) -> None:
    network = build_network(from_string(arch), num_classes=10, in_channels=3, image_size=32)
    assert count_parameters(network) == round(parameters * 1e6)
    assert count_multiply_adds(network, (3, 32, 32)) == round(multiply_adds * 1e6)


@pytest.mark.parametrize(
    ("name", "published"), [("DARTS_V2", 3.3), ("PDARTS", 3.4), ("PC_DARTS_cifar", 3.6)]
)
@pytest.mark.usefixtures("on_meta")
def test_published_sizes_on_cifar10(name: str, published: float) -> None:
    genotype = load_genotype(f"published:{name}")
    network = build_network(genotype, num_classes=10, in_channels=3, image_size=32, auxiliary=True)
    assert round(count_parameters(network) / 1e6, 1) == published
    assert sum(p.numel() for p in network.parameters()) > count_parameters(network) + 400_000


@pytest.mark.parametrize(
    ("name", "millions", "multiply_adds"),
    [
        # Liu et al. 2019 print 4.7 and 574; ptflops finds 544.59 for their network (issue 46 there)
        ("DARTS_V2", 4.7, 544.59),
        ("PDARTS", 4.9, 557),  # Chen et al. 2019
        ("PC_DARTS_image", 5.3, 597),  # Xu et al. 2020
    ],
)
@pytest.mark.usefixtures("on_meta")
def test_published_sizes_on_imagenet(name: str, millions: float, multiply_adds: float) -> None:
    """The printed numbers count every entry of BatchNorms (2), ReLUs and poolings (1) as well."""
    genotype = load_genotype(f"published:{name}")
    network = build_network(
        genotype, num_classes=1000, in_channels=3, image_size=224, form="imagenet"
    ).eval()
    assert round(count_parameters(network) / 1e6, 1) == millions
    convolutions = count_multiply_adds(network, (3, 224, 224))
    beside: list[int] = []

    def listen(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            beside.append(2 * output.numel())
        elif isinstance(module, nn.ReLU | nn.AdaptiveAvgPool2d) or module.preparation != "identity":
            beside.append(args[0].numel())

    kinds = nn.BatchNorm2d | nn.ReLU | nn.AdaptiveAvgPool2d | EdgeOperation
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(listen)
    network(torch.zeros(1, 3, 224, 224))
    found = (convolutions + sum(beside)) / 1e6
    assert found == pytest.approx(
        multiply_adds, abs=0.5 if isinstance(multiply_adds, int) else 0.005
    )


def build(**options: object) -> nn.Module:
    torch.manual_seed(0)
    genotype = load_genotype("published:DARTS_V2")
    numbers = {"num_classes": 3, "in_channels": 1, "image_size": 8, "channels": 4, "cells": 3}
    return build_network(genotype, **{**numbers, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["darts", "nasbench201"])
def test_random_genotypes_become_networks_that_learn(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        network = build_network(
            random_genotype(family, generator),
            num_classes=3,
            in_channels=1,
            image_size=8,
            channels=4,
            cells=3 if family == "darts" else 1,
        )
        logits = network(torch.randn(4, 1, 8, 8, generator=generator))
        assert logits.shape == (4, 3)
        logits.sum().backward()
        assert all(p.grad is not None for p in network.head.parameters())


def test_a_cell_of_nothing_but_none_passes_zeros_on() -> None:
    cell = from_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    network = build_network(cell, num_classes=3, in_channels=1, image_size=8, cells=1).eval()
    logits = network(torch.randn(4, 1, 8, 8))
    assert logits.isfinite().all()
    assert torch.equal(logits[0], logits[1])


def test_auxiliary_head_runs_in_training_alone_and_is_heard_by_a_hook() -> None:
    network = build(image_size=32, auxiliary=True)
    heard: list[Tensor] = []
    network.get_submodule("auxiliary").register_forward_hook(lambda m, a, out: heard.append(out))
    x = torch.randn(2, 1, 32, 32)
    assert network(x).shape == (2, 3)
    assert [tuple(out.shape) for out in heard] == [(2, 3)]
    heard[0].sum().backward()
    assert network.get_parameter("stem.layers.0.weight").grad is not None
    network.eval()
    assert network(x).shape == (2, 3)
    assert len(heard) == 1


def test_imagenet_form_has_its_auxiliary_head() -> None:
    network = build(image_size=224, form="imagenet", auxiliary=True)
    heard: list[Tensor] = []
    network.get_submodule("auxiliary").register_forward_hook(lambda m, a, out: heard.append(out))
    network(torch.randn(2, 1, 224, 224))
    assert heard[0].shape == (2, 3)


def test_drop_path_spares_skips_and_keeps_the_mean() -> None:
    network = build(drop_path=0.25)
    for op in [m for m in network.modules() if isinstance(m, EdgeOperation)]:
        dropped = any(isinstance(m, DropPath) for m in op.modules())
        assert dropped == (op.preparation != "identity")
    layer = next(m for m in network.modules() if isinstance(m, DropPath))
    assert layer.probability == 0.25
    torch.manual_seed(0)
    out = layer(torch.ones(4000, 2, 1, 1))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])  # a path is dropped as a whole
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    set_drop_path(network, 0.5)
    assert {m.probability for m in network.modules() if isinstance(m, DropPath)} == {0.5}
    x = torch.randn(4, 1, 8, 8)
    network.eval()
    assert torch.equal(network(x), network(x))


def test_counting_leaves_the_network_as_it_was() -> None:
    network = build(image_size=32, auxiliary=True)
    network.get_submodule("head").eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    x = torch.empty(1, 1, 32, 32)
    with FlopCounterMode(display=False) as oracle, torch.no_grad():
        build(image_size=32).eval()(x)
    bias = 3
    assert count_multiply_adds(network, (1, 32, 32)) == oracle.get_total_flops() // 2 + bias
    assert modes == [m.training for m in network.modules()]
    assert not any(m._forward_hooks for m in network.modules())
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(InputError, match="pass \\(channels, height, width\\)"):
        count_multiply_adds(network, (32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10}, "image_size is 10.*multiple of 4"),
        ({"channels": 5}, "multiple of 2"),
        ({"cells": 0}, "cells is 0"),
        ({"form": "large"}, "no form 'large'; pass small or imagenet"),
        ({"form": "imagenet"}, "halves its features 5 times; pass a multiple of 32"),
        ({"auxiliary": True}, "leave 2; pass an image_size of at least 32"),
        ({"auxiliary": True, "form": "imagenet", "image_size": 192}, "at least 224"),
        ({"drop_path": 1.0}, "drop_path is 1; pass a number from 0 to below 1"),
    ],
)
def test_what_cannot_be_built_says_what_to_pass(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**options)


def test_what_nasbench201_has_not() -> None:
    cell = random_genotype("nasbench201")
    with pytest.raises(InputError, match="a nasbench201 network has no auxiliary head; pass"):
        build_network(cell, num_classes=3, in_channels=1, image_size=32, auxiliary=True)
