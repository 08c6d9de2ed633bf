"""Fine-tuning: which layers of a pretrained network learn, how fast, and from when on.

Networks are read in the order in which their layers were made, which is the order in which images
pass them in all but odd cases. A *block* is a child of the model, or of a sequence of blocks in it:
`stem`, `blocks.0` to `blocks.15`, `features` and `head` of an EfficientNet-Lite.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfexplain.errors import InputError
from selfexplain.limits import check_values
from selfexplain.training.options import TrainingOptions

ALL = "all"
"""In place of a layer's name: freeze all but the head."""


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> block with parameters, from the first to the head."""
    return {
        name: module
        for name, module in _expanded(model, "")
        if any(True for _ in module.parameters())
    }


def _expanded(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children; in place of one that holds a sequence of blocks, or of an only child, its own."""
    children = list(module.named_children())
    for name, child in children:
        whole = f"{prefix}{name}"
        only = len(children) == 1 and any(True for _ in child.children())
        if only or any(map(_is_sequence_of_blocks, child.modules())):
            yield from _expanded(child, f"{whole}.")
        else:
            yield whole, child


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    """Whether it is a sequence of more than layers: of modules that hold modules."""
    return isinstance(module, (nn.Sequential, nn.ModuleList)) and any(
        any(True for _ in child.children()) for child in module.children()
    )


def head_of(model: nn.Module) -> str:
    """Name of the last block, which is the head of a classifier."""
    blocks = blocks_of(model)
    if len(blocks) < 2:
        raise InputError(
            f"{type(model).__name__} has no layers before its head to freeze or to slow down; "
            "train all of it"
        )
    return list(blocks)[-1]


def frozen_blocks(model: nn.Module, until: str) -> list[str]:
    """Names of the blocks up to a block or layer, which `freeze` freezes; `all`: but the head."""
    names, head = list(blocks_of(model)), head_of(model)
    if until == ALL:
        return names[:-1]
    # A sequence of blocks stands for its last one: "blocks" freezes all of them.
    inside = [i for i, name in enumerate(names) if _is_part(name, until) or _is_part(until, name)]
    if not inside or until not in dict(model.named_modules()):
        near = difflib.get_close_matches(until, names[:-1], n=3) or [names[0], "...", names[-2]]
        raise InputError(
            f"the model has no layer {until!r} to freeze up to; pass {', '.join(near)}, or all for "
            "everything before the head"
        )
    if names[inside[-1]] == head:
        raise InputError(
            f"freezing up to {until!r} would leave nothing to train; pass all to train the head "
            f"{head!r} alone"
        )
    return names[: inside[-1] + 1]


def _is_part(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}.")


def freeze(model: nn.Module, until: str) -> None:
    """Let the blocks up to one learn nothing; `until` as in `frozen_blocks`.

    Frozen parameters require no gradient, and frozen blocks are in evaluation mode, so that their
    BatchNorm keeps the statistics that it came with and dropout is off. What lies in no block, as
    position embeddings, comes first and is frozen too. Call it again after `model.train()`, which
    puts all blocks into training mode.
    """
    frozen = set(frozen_blocks(model, until))
    blocks = blocks_of(model)
    learning = {id(p) for name in blocks.keys() - frozen for p in blocks[name].parameters()}
    for parameter in model.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
    for name in frozen:
        blocks[name].eval()


def freeze_norm(model: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode, where it keeps its running statistics.

    Call it again after `model.train()`, which puts them into training mode.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
        >>> freeze_norm(model)
        >>> model[1].training, model[1].weight.requires_grad
        (False, True)
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def lr_scales(model: nn.Module, *, layer_decay: float = 1.0, body: float = 1.0) -> dict[str, float]:
    """Factor on the learning rate of every block, 1 for the head.

    A block that lies d blocks before the head learns with body * layer_decay ** d (ULMFiT's
    discriminative fine-tuning, Howard and Ruder 2018; layer-wise decay of BEiT).
    """
    check_values(TrainingOptions, {"layer_decay": layer_decay, "body_lr": body})
    names = list(blocks_of(model))
    head_of(model)
    last = len(names) - 1
    return {
        name: 1.0 if i == last else body * layer_decay ** (last - i) for i, name in enumerate(names)
    }


def parameter_scales(
    model: nn.Module, *, layer_decay: float = 1.0, body: float = 1.0
) -> dict[int, float]:
    """The factor of each parameter, by its `id`; what lies in no block learns as the first does."""
    scales = lr_scales(model, layer_decay=layer_decay, body=body)
    blocks = blocks_of(model)
    first = next(iter(scales.values()))
    found = {id(parameter): first for parameter in model.parameters()}
    for name, block in blocks.items():
        found.update({id(parameter): scales[name] for parameter in block.parameters()})
    return found
