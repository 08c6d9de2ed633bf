"""Parts that are computed again: the numbers of stored ones, tangents too, and less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers.lease_nets import SmoothReLU
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from selfexplain.models.recompute import recompute, recomputed, recomputes
from selfexplain.spaces import build_supernet


class Part(nn.Module):
    """A convolution, its statistics, and what is done after them."""

    def __init__(self, after: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.after = after

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if recomputes():
            return recomputed(self, x_BCHW)
        return self.after(self.norm(self.conv(x_BCHW)))


def dual(tensor: Tensor) -> Tensor:
    made: Tensor = forward_ad.make_dual(tensor.detach().clone(), torch.ones_like(tensor))  # type: ignore[no-untyped-call]
    return made.requires_grad_()


def both(tensor: Tensor) -> tuple[Tensor, Tensor]:
    unpacked: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return unpacked.primal.detach().clone(), unpacked.tangent.detach().clone()


def gradients(
    network: nn.Module, *inputs: Any, again: bool, weights_are_dual: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Dual gradients of a loss towards weights and images."""
    with forward_ad.dual_level(), recompute(again):
        x_BCHW = dual(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double())
        weights = {
            name: dual(p) if weights_are_dual else p.detach().clone().requires_grad_()
            for name, p in network.named_parameters()
        }
        loss = functional_call(network, weights, (x_BCHW, *inputs)).square().sum()
        found = torch.autograd.grad(loss, [x_BCHW, *weights.values()])
        return [both(gradient) for gradient in found]


def assert_equal(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> None:
    for (primal, tangent), (other_primal, other_tangent) in zip(one, other, strict=True):
        torch.testing.assert_close(primal, other_primal)
        torch.testing.assert_close(tangent, other_tangent)
        assert tangent.any()


@pytest.mark.parametrize("weights_are_dual", [True, False])
@pytest.mark.parametrize(("space", "cells"), [("nasbench201", 1), ("darts", 3), ("pcdarts", 3)])
def test_supernets_have_the_gradients_and_statistics_of_stored_ones(
    space: str, cells: int, weights_are_dual: bool
) -> None:
    found, statistics = [], []
    for again in (False, True):
        torch.manual_seed(0)
        supernet = build_supernet(
            space, num_classes=2, in_channels=3, image_size=8, channels=8, cells=cells
        ).double()
        architecture = supernet.new_architecture(torch.Generator().manual_seed(0))
        found.append(
            gradients(supernet, architecture, again=again, weights_are_dual=weights_are_dual)
        )
        statistics.append(dict(supernet.named_buffers()))
    assert_equal(*found)
    for name, buffer in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], buffer)


def test_random_numbers_are_drawn_again_and_the_generator_goes_on() -> None:
    found, after = [], []
    for again in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(Part(F.dropout), Part(F.dropout)).double()
        found.append(gradients(network, again=again))
        after.append(torch.rand(1))
    assert_equal(*found)
    assert after[0] == after[1]


def test_what_runs_under_a_mode_runs_under_it_again() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Part(), Part()).double()
    with SmoothReLU():
        stored = gradients(network, again=False)
        assert_equal(stored, gradients(network, again=True))
    plain = gradients(network, again=True)
    assert not torch.allclose(plain[0][1], stored[0][1])


def test_autocast_is_on_again() -> None:
    seen: list[torch.dtype] = []
    part = Part(lambda h: (seen.append(h.dtype), h)[1])
    x_BCHW = torch.randn(2, 3, 8, 8)
    with recompute():
        with torch.autocast("cpu", torch.bfloat16):
            loss = recomputed(part, x_BCHW).float().sum()
        loss.backward()
    assert seen == [torch.bfloat16] * 2


def test_relu_may_be_called_by_keyword_and_in_place() -> None:
    for relu in (lambda h: torch.relu(input=h), lambda h: F.relu(h.clone(), inplace=True)):
        torch.manual_seed(0)
        network = nn.Sequential(Part(relu), Part(relu)).double()
        assert_equal(*(gradients(network, again=again) for again in (False, True)))


def test_without_gradients_or_when_not_asked_nothing_is_computed_again() -> None:
    assert not recomputes()
    with recompute():
        assert recomputes()
        with torch.no_grad():
            assert not recomputes()


def test_a_loss_may_hold_a_gradient_itself() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Part(F.softplus), Part(F.softplus)).double()
    found = []
    for again in (False, True):
        with forward_ad.dual_level(), recompute(again):
            x_BCHW = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).double()
            x_BCHW = x_BCHW.requires_grad_()
            weights = {name: dual(p) for name, p in network.named_parameters()}
            score = functional_call(network, weights, (x_BCHW,)).square().sum()
            (gradient,) = torch.autograd.grad(score, x_BCHW, create_graph=True)
            second = torch.autograd.grad(gradient.square().sum(), list(weights.values()))
            found.append([both(g) for g in second])
    assert_equal(*found)


def test_a_transformed_loss_is_computed_directly() -> None:
    part, x_BCHW = Part(F.softplus).eval(), torch.randn(2, 3, 8, 8)
    with recompute():
        found = torch.func.grad(lambda x: part(x).sum())(x_BCHW)
    expected = torch.func.grad(lambda x: part(x).sum())(x_BCHW)
    assert torch.equal(found, expected)


def peak(step: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator had given out at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_the_graph_of_one_part_is_held_at_a_time() -> None:
    """A ReLU by its output would hold the dual numbers of all of them until the level ends."""
    few, many = (nn.Sequential(*(Part() for _ in range(n))).double() for n in (4, 16))
    growth = [
        peak(lambda again=again: gradients(many, again=again))  # type: ignore[misc]
        - peak(lambda again=again: gradients(few, again=again))  # type: ignore[misc]
        for again in (False, True)
    ]
    image = 4 * 3 * 8 * 8 * 8
    assert growth[1] < 12 * 4 * image
    assert growth[0] > 12 * 8 * image
