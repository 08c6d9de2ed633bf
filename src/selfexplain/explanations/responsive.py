"""The last layer with space that the logits hang on, for models without a pooled head."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError

from .compiled import run_eagerly
from .gradients import gradients_of_score
from .kinds import check_images, check_logits
from .layout import (
    Layout,
    is_of_heads,
    known_grids,
    layouts_of,
    no_positions,
    sequences_of,
    to_BFHW,
)
from .other_weights import other_weights
from .state import preserved, recomputing, set_eval
from .trace import N_IMAGES, probe


def last_responsive_layer(model: nn.Module, x_BCHW: Tensor) -> tuple[str, Layout]:
    """Find the last module, in order of execution, whose output positions move the logits.

    In a vision transformer with a class token, what follows the last mixing of tokens is passed
    over: there the patch tokens have no gradient. Tokens must be as wide as the last ones are, so
    that the inside of an MLP does not count. What attention heads compute is no feature map; tokens
    without a known grid are refused rather than passed over for the map that they are made of.

    Returns:
        The module's name and the layout of its output.

    Raises:
        InputError: if there is no such module.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> last_responsive_layer(model, torch.rand(2, 3, 8, 8))[0]
        '1'
    """
    check_images(x_BCHW)
    found = outputs_with_space(model, x_BCHW)
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    passed: tuple[str, torch.Size] | None = None
    for name, layout, gradient in reversed(found):
        if layout is None:
            if passed is None and bool(gradient.any()):
                passed = name, gradient.shape
            continue
        wide = layout.axes != "BTD" or layout.channels == tokens[-1].channels
        if wide and bool((gradient_BFHW := to_BFHW(gradient, layout)).any()):
            if passed is not None and _made_of(passed[1], gradient_BFHW.shape):
                raise no_positions(passed[0], str(tuple(passed[1])), x_BCHW.shape)
            return name, layout
    raise InputError(
        "no layer's output has space (B, C, H, W) or a grid of tokens (B, T, D) and a gradient; "
        "pass the name of a layer, or kind='gradient' for the images themselves"
    )


def outputs_with_space(model: nn.Module, x_BCHW: Tensor) -> list[tuple[str, Layout | None, Tensor]]:
    """Names, layouts and gradients of outputs with positions, in order of execution.

    What attention heads compute is left out. Sequences without a known grid have no layout.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> [name for name, _, _ in outputs_with_space(model, torch.rand(2, 3, 8, 8))]
        ['0']
    """
    image_BCHW = x_BCHW[:N_IMAGES].shape
    all_found = outputs_and_gradients(model, x_BCHW)
    outputs = [output for _, output, _ in all_found]
    sequences = sequences_of(outputs, image_BCHW)
    found = []
    known: dict[Layout, bool] = {}
    for name, output, gradient in all_found:
        layouts = layouts_of(output, image_BCHW)
        if layouts and layouts[0] not in known:
            known[layouts[0]] = bool(known_grids(layouts[:1], outputs, image_BCHW))
        layouts = layouts if layouts and known[layouts[0]] else []
        is_sequence = output.dim() == 3 and (output.shape[1], output.shape[2]) in sequences
        if layouts or (is_sequence and len(output) == image_BCHW[0]):
            found.append((name, layouts[0] if layouts else None, gradient))
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    return [
        (name, layout, gradient)
        for name, layout, gradient in found
        if layout is None or not is_of_heads(gradient, tokens, sequences, image_BCHW)
    ]


def _made_of(sequence_BND: torch.Size, map_BFHW: torch.Size) -> bool:
    """Tell whether a sequence holds the positions of a map, as wide as they were."""
    positions = map_BFHW[2:].numel()
    return sequence_BND[1] >= positions > max(map_BFHW[2:]) and sequence_BND[2] == map_BFHW[1]


def outputs_and_gradients(model: nn.Module, x_BCHW: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Names and last outputs of modules, in order of execution, and the gradients of a score.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> [name for name, _, _ in outputs_and_gradients(model, torch.rand(2, 3, 8, 8))]
        ['0', '1', '2', '']
    """
    x_BCHW = probe(x_BCHW).requires_grad_()
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(run_eagerly(model.modules()))
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(_keep(outputs, name)).remove)
        # What starts at zero, such as the last weights of a branch, would hide what lies before it.
        stack.enter_context(other_weights(model.modules(), zeros_only=True))
        set_eval(model)
        logits_BK = check_logits(model(x_BCHW.clone()), len(x_BCHW))
        # Fabric's wrapper forbids to differentiate what it returns.
        logits_BK = outputs.get("_forward_module", logits_BK)
        if not (outputs and logits_BK.requires_grad):
            return []
        # Not the plain sum of the logits: that of log-probabilities or centred logits is constant.
        weight_K = torch.arange(1, logits_BK.shape[1] + 1, device=logits_BK.device).cos()
        score = (logits_BK.float() * weight_K).sum()
        gradients = gradients_of_score(score, list(outputs.values()))
    pairs = zip(outputs.items(), gradients, strict=True)
    return [(name, output, grad) for (name, output), grad in pairs if grad is not None]


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
    """Make a forward hook that keeps the output, out of reach of in-place changes."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        if recomputing():  # a copy again, or checkpointing would miss an operation
            return output.clone()
        outputs.pop(name, None)  # the last call counts, and takes its place in the order
        outputs[name] = output
        return output.clone()

    return hook
