"""Find the linear head and the feature map that is averaged into it (B batch, F features)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from selfexplain.errors import InputError
from selfexplain.explanations.kinds import check_images
from selfexplain.explanations.layout import Layout, Source
from selfexplain.explanations.model_state import other_weights
from selfexplain.explanations.tracing import LinearCall, Sighting, Trace, traced

# Relative to the largest value; two ways to compute a mean differ by rounding only.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
}


@dataclass(frozen=True, slots=True)
class PooledHead:
    """A linear head on the spatial mean of a feature map.

    Attributes:
        linear: the layer whose output is the logits.
        name: its name in the model.
        source: where the feature map shows in a forward.
        layout: how to read the feature map.
        layers: names of all modules that return that very feature map; none where it is the result
            of a function.

    Example:
        >>> source, layout = Source("output", "layer4"), Layout("BCHW", 8)
        >>> PooledHead(nn.Linear(8, 5), "fc", source, layout, layers=("layer4",)).name
        'fc'
    """

    linear: nn.Linear
    name: str
    source: Source
    layout: Layout
    layers: tuple[str, ...]


def find_pooled_head(model: nn.Module, x_BCHW: Tensor) -> PooledHead:
    """Find the ``nn.Linear`` that returns the logits and the feature map that is pooled into it.

    Watches one forward of two images in eval mode and leaves the model as it was. The feature map
    is known by its values: its mean over space is the head's input. So pooling may be a module, a
    function or a reshape and a mean, and dropout may follow it. Tokens (B, T, D) count where the
    mean is over the patch tokens. It must be so with other weights, too, in a second forward: what
    lies between pool and head is often the identity at first, as BatchNorm in eval mode is.

    Args:
        model: any module that maps images (B, C, H, W) to logits (B, K).
        x_BCHW: a few images such as the model takes.

    Raises:
        InputError: if there is no such head (a 1x1 convolution is none), or the input is no image
            batch, or the output no logits.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> find_pooled_head(model, torch.rand(2, 3, 8, 8)).source
        Source(at='output', name='0')
    """
    check_images(x_BCHW)
    trace = traced(model, x_BCHW)
    head = pooled_head_of(model, x_BCHW, trace)
    if isinstance(head, str):
        refuse_what_is_not_finite(model, x_BCHW, trace.logits_BK)
        raise no_pooled_head(head)
    return head


def pooled_head_of(model: nn.Module, x_BCHW: Tensor, trace: Trace) -> PooledHead | str:
    """Find the pooled head that the model has with these weights and with others.

    Only what runs after the feature map gets other weights. If these make numbers overflow, they
    tell nothing.

    Returns:
        The head, or the reason why there is none.

    Example:
        >>> model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(2, 3, 4, 4)
        >>> pooled_head_of(model, x, traced(model, x))
        "the input of the head '1' is not the spatial mean of a feature map"
    """
    head = search(trace)
    if isinstance(head, str):
        return head
    call = _head_call(trace)
    assert call is not None, "a head was found"
    first = next(i for i, seen in enumerate(trace.sightings) if _mean_is(seen, call.input))
    after = [
        module
        for name, module in model.named_modules()
        if trace.finished.get(name, len(trace.sightings)) > first
    ]
    # Large ones, so that what bends large logits bends these.
    again = traced(model, x_BCHW, other_weights(after, gain=8.0))
    return search(again) if bool(again.logits_BK.isfinite().all()) else head


def refuse_what_is_not_finite(model: nn.Module, x_BCHW: Tensor, logits_BK: Tensor) -> None:
    """Raise ``InputError`` if images, weights or logits are not finite: then nothing can be found.

    Example:
        >>> refuse_what_is_not_finite(nn.Flatten(), torch.full((1, 1, 1, 1), torch.nan), Tensor())
        Traceback (most recent call last):
        selfexplain.errors.InputError: x holds NaN or infinite pixels (in image 0 of the batch); ...
    """
    refuse_broken_images(x_BCHW)
    refuse_broken_weights(model)
    if not bool(logits_BK.isfinite().all()):
        raise InputError(
            "the model's logits are not finite, though its weights and the images are; pass "
            "smaller values, or a model of a wider type, such as float32"
        )


def refuse_broken_images(x_BCHW: Tensor) -> None:
    """Raise ``InputError`` if a pixel is not finite.

    Example:
        >>> refuse_broken_images(torch.zeros(1, 1, 1, 1))
    """
    broken_B = ~x_BCHW.detach().isfinite().flatten(1).all(dim=1)
    if bool(broken_B.any()):
        raise InputError(
            f"x holds NaN or infinite pixels (in image {int(broken_B.nonzero()[0])} of the batch); "
            "pass finite images"
        )


def refuse_broken_weights(model: nn.Module) -> None:
    """Raise ``InputError`` if a parameter or buffer is not finite.

    Example:
        >>> refuse_broken_weights(nn.Linear(2, 2))
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            continue
        # A mask of attention may hold minus infinity.
        if bool((tensor.isnan() if "mask" in name else ~tensor.isfinite()).any()):
            raise InputError(
                f"the model's {name!r} holds NaN or infinite values; pass a model whose weights "
                "are finite"
            )


def no_pooled_head(reason: str) -> InputError:
    """Make the error that says why there is no pooled head, and what works without one.

    Example:
        >>> "grad_cam" in str(no_pooled_head("the head is missing"))
        True
    """
    return InputError(
        "kind 'cam' needs a feature map whose spatial mean feeds the nn.Linear that returns the "
        f"logits, but {reason}; pass kind='grad_cam', 'feature_x_gradient', 'gradient' or "
        "'input_x_gradient'"
    )


def search(trace: Trace) -> PooledHead | str:
    """Find the pooled head in a trace; otherwise return the reason why there is none.

    Example:
        >>> search(traced(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(2, 3, 4, 4)))
        "the input of the head '1' is not the spatial mean of a feature map"
    """
    call = _head_call(trace)
    if call is None:
        return "no nn.Linear returns the logits" + (_split(trace) or _convolution_head(trace))
    reason = f"the input of the head {call.name!r} is not the spatial mean of a feature map"
    before = trace.sightings[: call.sightings]
    matches = [(seen, layout) for seen in before if (layout := _mean_is(seen, call.input))]
    if not matches:
        return reason + (_single_position(trace, call.linear.in_features) or _between_them(call))
    last, layout = matches[-1]
    same = [seen for seen, _ in matches if seen.tensor is last.tensor]
    layers = tuple(n for n in trace.called if _last_of(n, trace.sightings, layout) in same)
    source = Source("output", layers[-1]) if layers else _between(before, layout, same)
    return PooledHead(call.linear, call.name, source, layout, layers) if source else reason


def _head_call(trace: Trace) -> LinearCall | None:
    """Return the last call of a linear layer that gave the logits."""
    return next((call for call in reversed(trace.linear_calls) if _is_head(call, trace)), None)


def _is_head(call: LinearCall, trace: Trace) -> bool:
    """Tell whether this call gave the logits, by a plain linear map of a vector."""
    weight, bias = call.weight.detach(), call.bias
    if call.input.dim() != 2 or not _close(call.output, trace.logits_BK):
        return False
    linear_map = call.input.to(weight.dtype) @ weight.T
    return _close(linear_map if bias is None else linear_map + bias.detach(), call.output)


def _split(trace: Trace) -> str:
    """Name the head that is given parts of the batch, for the error message."""
    batch, width = trace.logits_BK.shape
    for call in reversed(trace.linear_calls):
        if call.output.dim() == 2 and call.output.shape[1] == width and len(call.output) < batch:
            return (
                f" (the head {call.name!r} is given {len(call.output)} of {batch} images: pass the "
                "model without the wrapper that splits the batch)"
            )
    return ""


def _between_them(call: LinearCall) -> str:
    """Name the layer with values of its own that returns the head's input."""
    return f" (it is what {call.given_by!r} returns)" if call.given_has_values else ""


def _convolution_head(trace: Trace) -> str:
    """Name the 1x1 convolution that seems to be the head, for the error message."""
    width = trace.logits_BK.shape[1]
    for name, module in reversed(trace.called.items()):
        if isinstance(module, nn.Conv2d) and module.out_channels == width:
            return f" (the head seems to be the convolution {name!r}, which is not supported)"
    return ""


def _single_position(trace: Trace, features: int) -> str:
    """Name the cause if the images are so small that the last feature map has no space left."""
    # Where so many features have space anywhere, what returns a single position may be the pool.
    had_space = any(layout.channels == features for s in trace.sightings for layout, _ in s.means)
    for name, module in trace.called.items():
        last = trace.returned[name].endswith(f", {features}, 1, 1)")
        if last and (not had_space or _narrows(module)):
            return f" (the feature map at {name!r} has a single position: use larger images)"
    return ""


def _narrows(module: nn.Module) -> bool:
    """Tell whether a module computes a smaller map than it is given; a pool only averages."""
    return isinstance(module, nn.Conv2d) and {module.kernel_size, module.stride} != {(1, 1)}


def _mean_is(seen: Sighting, vector_BF: Tensor) -> Layout | None:
    """Return the layout in which the spatial mean of ``seen`` is ``vector_BF``."""
    return next((layout for layout, mean in seen.means if _close(mean, vector_BF)), None)


def _last_of(name: str, sightings: list[Sighting], layout: Layout) -> Sighting | None:
    """Return the last output of a module in this layout: the one that a hook will keep."""
    found = (s for s in reversed(sightings) if s.module == name and layout.fits(s.tensor))
    return next(found, None)


def _between(before: list[Sighting], layout: Layout, same: list[Sighting]) -> Source | None:
    """Return the source of a feature map that no module returns.

    In a later forward the last argument that fits is taken; here it must be the right one.
    """
    fitting = [seen for seen in before if seen.module is None and layout.fits(seen.tensor)]
    last = fitting[-1] if fitting else None
    return Source("function", last.after or "") if last in same and last is not None else None


def _close(a: Tensor, b: Tensor) -> bool:
    """Compare with the tolerance of the coarser type."""
    if a.shape != b.shape:
        return False
    tolerance = max(TOLERANCES.get(t.dtype, 2e-2) for t in (a, b))
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(wide), b.to(wide)
    return bool((a - b).abs().max() <= tolerance * torch.maximum(a.abs().max(), b.abs().max()))
