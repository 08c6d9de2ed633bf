"""The last layer with space that the logits hang on, for models without a pooled head."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError

from .compiled import run_eagerly
from .kinds import check_images, check_logits
from .layout import Layout, layouts_of, to_BFHW
from .state import preserved, set_eval
from .trace import N_IMAGES, probe


def last_responsive_layer(model: nn.Module, x_BCHW: Tensor) -> tuple[str, Layout]:
    """Find the last module, in order of execution, whose output positions move the logits.

    In a vision transformer with a class token, what follows the last mixing of tokens is passed
    over: there the patch tokens have no gradient. Tokens must be as wide as the last ones are, so
    that the inside of an MLP does not count.

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
    image_BCHW = x_BCHW[:N_IMAGES].shape
    found = [
        (name, layouts[0], gradient)
        for name, output, gradient in outputs_and_gradients(model, x_BCHW)
        if (layouts := layouts_of(output, image_BCHW))
    ]
    tokens = [layout for _, layout, _ in found if layout.axes == "BTD"]
    for name, layout, gradient in reversed(found):
        wide = layout.axes != "BTD" or layout.channels == tokens[-1].channels
        if wide and not is_of_heads(gradient, tokens) and bool(to_BFHW(gradient, layout).any()):
            return name, layout
    raise InputError(
        "no layer's output has space (B, C, H, W) or a grid of tokens (B, T, D) and a gradient; "
        "pass the name of a layer, or kind='gradient' for the images themselves"
    )


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
        set_eval(model)
        logits_BK = check_logits(model(x_BCHW.clone()), len(x_BCHW))
        # Fabric's wrapper forbids to differentiate what it returns.
        logits_BK = outputs.get("_forward_module", logits_BK)
        if not (outputs and logits_BK.requires_grad):
            return []
        # Not the plain sum of the logits: that of log-probabilities or centred logits is constant.
        weight_K = torch.arange(1, logits_BK.shape[1] + 1, device=logits_BK.device).cos()
        score = (logits_BK.float() * weight_K).sum()
        gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    pairs = zip(outputs.items(), gradients, strict=True)
    return [(name, output, grad) for (name, output), grad in pairs if grad is not None]


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
    """Make a forward hook that keeps the output, out of reach of in-place changes."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        outputs.pop(name, None)  # the last call counts, and takes its place in the order
        outputs[name] = output
        return output.clone()

    return hook


def is_of_heads(output: Tensor, tokens: list[Layout]) -> bool:
    """Tell what attention heads compute from a feature map of the same rank.

    Weights are (B, heads, T, T); queries, keys and values are (B, heads, T, D).

    Args:
        output: of a module.
        tokens: layouts of the tokens in this model.

    Example:
        >>> from selfexplain.explanations.layout import TokenGrid
        >>> is_of_heads(torch.zeros(2, 4, 17, 17), [Layout("BTD", 8, TokenGrid(1, 4, 4))])
        True
    """
    counts = {layout.grid.tokens for layout in tokens if layout.grid}
    return output.dim() == 4 and output.shape[2] in counts
