"""Small smooth networks in float64, and differences, for objectives made of explanations."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 4


def _features(channels: int) -> OrderedDict[str, nn.Module]:
    """Of images of 8 x 8 pixels `early` has 8 x 8 positions, and `late` 4 x 4."""
    return OrderedDict(
        conv1=nn.Conv2d(channels, 3, 3, padding=1),
        early=nn.Softplus(),
        halve=nn.AvgPool2d(2),
        conv2=nn.Conv2d(3, 5, 3, padding=1),
        late=nn.Softplus(),
    )


def pooled_net(channels: int = 2) -> nn.Module:
    """A linear head on the spatial mean."""
    torch.manual_seed(0)
    layers = _features(channels)
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(5, CLASSES))
    return nn.Sequential(layers).double()


def flat_net(channels: int = 2) -> nn.Module:
    """The same without pooling: a linear head on all positions."""
    torch.manual_seed(1)
    layers = _features(channels)
    layers.update(flatten=nn.Flatten(), head=nn.Linear(5 * 16, CLASSES))
    return nn.Sequential(layers).double()


def batch(size: int = 5, channels: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, channels, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.arange(size) % CLASSES


def own_gradient(model: nn.Module, x_1CHW: Tensor, k: int) -> Tensor:
    """d logit_k / d x of one image, (C, H, W), by autograd alone; differentiable."""
    x_1CHW = x_1CHW.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x_1CHW)[0, k], x_1CHW, create_graph=True)
    return gradient[0]


def own_grad_cam(model: nn.Sequential, layer: str, x_1CHW: Tensor, k: int) -> Tensor:
    """Grad-CAM of one image, class and layer of a chain of modules, (H, W); differentiable."""
    cut = list(dict(model.named_children())).index(layer) + 1
    features = model[:cut](x_1CHW)
    (gradient,) = torch.autograd.grad(model[cut:](features)[0, k], features, create_graph=True)
    map_HW = torch.zeros_like(features[0, 0])
    for a_HW, gradient_HW in zip(features[0], gradient[0], strict=True):
        map_HW = map_HW + gradient_HW.mean() * a_HW
    return map_HW


def assert_differences_agree(value: Callable[[], Tensor], parts: nn.Module) -> None:
    """Central differences of `value` equal the gradients in `parts`.

    A few weights of each parameter are moved.
    """
    step = 1e-5
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        for i in {0, parameter.numel() // 2, parameter.numel() - 1}:
            flat = parameter.data.view(-1)
            before = flat[i].item()
            flat[i] = before + step
            above = value().item()
            flat[i] = before - step
            below = value().item()
            flat[i] = before
            torch.testing.assert_close(
                parameter.grad.view(-1)[i].item(),
                (above - below) / (2 * step),
                rtol=1e-5,
                atol=1e-8,
                msg=lambda text, where=f"{name}[{i}]": f"{where}: {text}",
            )
