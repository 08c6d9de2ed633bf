"""1x1 convolutions of every second pixel, without a fault of torch's CPU library.

On CPUs with AVX2 and without AVX-512, the library of torch 2.13 (oneDNN 3.12) writes outside of its
buffer when it computes the gradient towards the weight of a 1x1 convolution with a stride: in
float32, ungrouped, with fewer than 8 input channels, features or weight channels last, and sides
that the stride divides. Towards the input, of other kernels and with stride 1 it does not.

Shape suffixes: B batch, C channels, H and W space.
"""

import platform
import warnings

import torch
from torch import Tensor, nn

WIDTH = 8
"""Channels that AVX2 works on at once: with at least as many, nothing is written outside."""


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution, without bias, of the pixels that lie `step` apart.

    The parameters and the values are those of `nn.Conv2d(inputs, outputs, 1, stride=step)`; here
    the pixels are picked first, and then convolved with stride 1.

    Args:
        inputs: channels C of the input.
        outputs: channels of the output.
        step: pixels from one that is read to the next, down and to the right.

    Shapes:
        input (B, C, H, W); output (B, outputs, ceil(H / step), ceil(W / step)).

    Example:
        >>> PointwiseConv2d(3, 4, step=2)(torch.zeros(1, 3, 7, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.step = step

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of every `step`-th pixel."""
        if self.step > 1:
            x_BCHW = x_BCHW[:, :, :: self.step, :: self.step]
        return super().forward(x_BCHW)

    def extra_repr(self) -> str:
        """What distinguishes this layer from others of its class."""
        return f"{super().extra_repr()}, step={self.step}"  # type: ignore[no-untyped-call]


def strided_pointwise(model: nn.Module) -> list[str]:
    """Names of the layers whose training on a CPU may damage memory; none outside of x86."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.enabled:
        return []
    return [name for name, module in model.named_modules() if _is_strided_pointwise(module)]


def warn_of_strided_pointwise(model: nn.Module) -> None:
    """Warn of the layers of a user's model whose training on a CPU may damage memory.

    It is said on every x86 CPU, one with AVX-512 too: a run may be continued on another machine,
    where it would end in a crash that names nothing.

    Example:
        >>> warn_of_strided_pointwise(nn.Sequential(PointwiseConv2d(3, 4, step=2)))
    """
    names = strided_pointwise(model)
    if not names:
        return
    listed = ", ".join(repr(name) for name in names)
    layers = f"layer {listed} is a" if len(names) == 1 else f"layers {listed} are each a"
    warnings.warn(
        f"{layers} strided 1x1 convolution of fewer than {WIDTH} channels; on CPUs with AVX2 and "
        "without AVX-512, torch writes outside of its memory when such a layer is trained, and the "
        "program may crash: slice first, x[:, :, ::2, ::2], and convolve with stride 1, as "
        "selfexplain.models.PointwiseConv2d does with the same weights and values",
        stacklevel=3,
    )


def _is_strided_pointwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or not 0 < module.in_channels < WIDTH:
        return False
    plain = module.groups == 1 and module.padding in ((0, 0), "valid")
    if module.kernel_size != (1, 1) or max(module.stride) == 1 or not plain:
        return False
    # not module.weight: of a parametrised layer it is computed anew, which may change its state
    return any(
        p.requires_grad and p.device.type == "cpu" and p.dtype == torch.float32
        for p in module.parameters()
    )
