"""Supernets against their plain twins: values, and every gradient, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.oracles.spaces import plain_logits
from torch import Tensor

from selfexplain.spaces import Supernet, build_supernet
from selfexplain.spaces.supernet import MixedOp

SPACES = ("nasbench201", "tiny201", "darts", "pcdarts")
Y = torch.tensor([0, 1, 2, 0])


def build(space: str, bundled: bool = True) -> Supernet:
    torch.manual_seed(1)
    cells = 2 if space.endswith("201") else 3
    # the size decides whether edges are bundled; images may then have another
    return build_supernet(
        space,
        num_classes=3,
        in_channels=2,
        image_size=8 if bundled else 256,
        channels=8,
        cells=cells,
    ).double()


def start(supernet: Supernet) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64)
    # far from the start values, so that no two operations have nearly equal weights
    architecture = {
        name: (300 * a).double().requires_grad_()
        for name, a in supernet.new_architecture(generator).items()
    }
    return x.requires_grad_(), architecture


def close(first: Tensor, second: Tensor, rtol: float = 1e-10) -> bool:
    return bool((first - second).abs().max() <= rtol * second.abs().max())


def gradients(
    logits: Tensor, supernet: Supernet, x: Tensor, architecture: dict[str, Tensor]
) -> list[Tensor]:
    loss = torch.nn.functional.cross_entropy(logits, Y)
    wrt = [*supernet.parameters(), *architecture.values(), x]
    return list(torch.autograd.grad(loss, wrt, create_graph=True))


def assert_twins(supernet: Supernet, x: Tensor, architecture: dict[str, Tensor]) -> None:
    """The logits and every gradient are those of the plain twin."""
    fast, plain = supernet(x, architecture), plain_logits(supernet, x, architecture)
    assert close(fast, plain)
    for one, other in zip(
        gradients(fast, supernet, x, architecture),
        gradients(plain, supernet, x, architecture),
        strict=True,
    ):
        assert one.abs().max() > 0
        assert close(one, other)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bundled", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_supernet_is_its_plain_twin(
    space: str, train: bool, bundled: bool, channels_last: bool
) -> None:
    supernet = build(space, bundled)
    if not space.endswith("201"):
        senders = [m for m in supernet.modules() if isinstance(m, MixedOp)]
        assert {len(s.bundles) == 1 for s in senders} == ({True} if bundled else {True, False})
    x, architecture = start(supernet)
    if channels_last:
        supernet = supernet.to(memory_format=torch.channels_last)
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # running statistics that are not those of the start
        supernet(torch.randn_like(x), architecture)
    supernet.train(train)
    assert_twins(supernet, x, architecture)


@pytest.mark.parametrize("space", ["darts", "pcdarts"])
def test_the_imagenet_form_is_its_plain_twin_an_eighth_as_wide(space: str) -> None:
    torch.manual_seed(1)
    supernet = build_supernet(
        space, num_classes=3, in_channels=2, image_size=64, channels=8, cells=3, form="imagenet"
    ).double()
    _, architecture = start(supernet)
    x = torch.randn(4, 2, 64, 64, dtype=torch.float64, requires_grad=True)
    sides: list[list[int]] = []
    network: Any = supernet.network
    for cell in network.cells:
        cell.register_forward_pre_hook(
            lambda _, inputs: sides.append([h.shape[-1] for h in inputs[:2]])
        )
    supernet(x, architecture)
    assert sides == [[16, 8], [8, 8], [8, 4]]
    assert_twins(supernet, x, architecture)


@pytest.mark.parametrize("bundled", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_mixed_second_derivatives_are_those_of_the_twin(space: str, bundled: bool) -> None:
    """d/d architecture and d/dx of <d loss / d weights, v>, as a chain of levels needs them."""
    supernet = build(space, bundled)
    x, architecture = start(supernet)
    weights = list(supernet.parameters())

    def second(logits: Callable[..., Tensor]) -> list[Tensor]:
        loss = torch.nn.functional.cross_entropy(logits(x, architecture), Y)
        found = torch.autograd.grad(loss, weights, create_graph=True)
        along = sum((g * w.detach().cos()).sum() for g, w in zip(found, weights, strict=True))
        assert isinstance(along, Tensor)
        return list(torch.autograd.grad(along, [*architecture.values(), x]))

    for one, other in zip(
        second(supernet), second(lambda x, a: plain_logits(supernet, x, a)), strict=True
    ):
        assert close(one, other, rtol=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_running_statistics_move_as_those_of_an_ordinary_batch_norm(space: str) -> None:
    supernet = build(space)
    x, architecture = start(supernet)
    seen: dict[torch.nn.Module, Tensor] = {}
    norms = [m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    handles = [
        m.register_forward_pre_hook(lambda module, args: seen.update({module: args[0].detach()}))
        for m in norms
    ]
    supernet(x, architecture)
    for handle in handles:
        handle.remove()
    for norm in norms:
        twin = torch.nn.BatchNorm2d(norm.num_features, affine=False).double()
        twin(seen[norm])
        for name, buffer in twin.named_buffers():
            torch.testing.assert_close(dict(norm.named_buffers())[name], buffer)
