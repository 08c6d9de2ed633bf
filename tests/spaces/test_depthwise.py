"""Depthwise convolutions against torch's own: values, first and second derivatives, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces import depthwise
from selfexplain.spaces.depthwise import DepthwiseConv2d


def derivatives(conv: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    out = conv(x)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    first = torch.autograd.grad((out * along).sin().sum(), [x, weight], create_graph=True)
    mixed = sum(gradient.cos().sum() for gradient in first)
    assert isinstance(mixed, Tensor)
    return [out, *first, *torch.autograd.grad(mixed, [x, weight])]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 6), (5, 9), (1, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_it_is_torchs_convolution(
    kernel: int, stride: int, dilation: int, size: tuple[int, int], channels_last: bool
) -> None:
    torch.manual_seed(0)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    conv = DepthwiseConv2d(3, kernel, stride, dilation).double().to(memory_format=memory)
    x = torch.randn(2, 3, *size).double().to(memory_format=memory).requires_grad_()
    ours = derivatives(conv, x, conv.weight)
    torchs = derivatives(lambda x: nn.Conv2d.forward(conv, x), x, conv.weight)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 1), (5, 2)])
def test_forward_mode_over_reverse_mode_is_torchs(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(3, kernel, dilation=dilation).double()
    x, along_x = torch.randn(2, 2, 3, 7, 6).double()
    weight, along = conv.weight.detach(), torch.randn(conv.weight.shape).double()

    def tangents(forward: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        towards = torch.func.grad(lambda x, w: forward(x, w).sin().sum(), argnums=(0, 1))
        _, found = torch.func.jvp(towards, (x, weight), (along_x, along))
        return found  # type: ignore[no-any-return]

    ours = tangents(lambda x, w: torch.func.functional_call(conv, {"weight": w}, (x,)))
    padding = dilation * (kernel // 2)
    torchs = tangents(lambda x, w: F.conv2d(x, w, None, 1, padding, dilation, 3))
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_function_transforms_and_autocast() -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(3, 5, dilation=2)
    x_NBCHW = torch.randn(4, 2, 3, 6, 6)

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(conv, {"weight": weight}, (x,))
        return out.square().sum()

    together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(conv.weight.detach(), x_NBCHW)
    for x, gradient in zip(x_NBCHW, together, strict=True):
        (alone,) = torch.autograd.grad(loss(conv.weight, x), [conv.weight])
        torch.testing.assert_close(alone, gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x_NBCHW[0])
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_that_a_pass_does_not_ask_for_are_not_computed(
    dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In first and second derivatives, of kernels that are leaves and of others."""
    torch.manual_seed(0)
    asked: list[tuple[bool, bool]] = []
    torchs = depthwise._gradients

    def noted(*args: Any) -> Any:
        asked.append(args[-1])
        return torchs(*args)

    conv = DepthwiseConv2d(3, 3, dilation=dilation).double()
    for weight in (conv.weight, conv.weight * 2):
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
        h = x * 1

        def first(*towards: Tensor, weight: Tensor = weight, h: Tensor = h) -> Any:
            out = torch.func.functional_call(conv, {"weight": weight}, (h,)).sin().sum()
            return torch.autograd.grad(out, towards, create_graph=True)

        both, alone = first(x, weight), (first(x), first(weight))
        for a, (b,) in zip(both, alone, strict=True):
            assert torch.equal(a, b)
        seconds = [torch.autograd.grad(g.cos().sum(), [x, weight], retain_graph=True) for g in both]
        monkeypatch.setattr(depthwise, "_gradients", noted)
        for g, (towards_x, towards_weight) in zip(both, seconds, strict=True):
            for towards, expected, column in ((x, towards_x, 1), (weight, towards_weight, 0)):
                asked.clear()
                scalar = g.cos().sum()
                (found,) = torch.autograd.grad(scalar, towards, retain_graph=True)
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
                if towards is x and g is both[0]:  # only the path through the features is needed
                    assert not any(wanted[column] for wanted in asked)
        asked.clear()
        first(x)
        assert not any(kernels for _, kernels in asked)
        monkeypatch.undo()
