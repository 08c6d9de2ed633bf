"""Logits of all images to be scored, the work shared by the processes."""

from functools import partial

import torch
from torch import Tensor, nn

from selfexplain.data.ranks import rank_slice
from selfexplain.evaluation import predict
from selfexplain.recipes.prepare import Prepared
from selfexplain.training.processes import gathered, joined_processes


def predict_together(
    model: nn.Module,
    prepared: Prepared,
    *,
    device: torch.device,
    workers: int,
    corruption: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of all scored images, in their order, on the CPU.

    Each process looks at its part of the images and gets the logits of all; every one must call it,
    with the same weights and buffers in its model.

    Args:
        model: the classifier.
        prepared: its images.
        device: where they are looked at.
        workers: processes that decode images.
        corruption: name of what is done to the images; None for nothing.

    Example:
        >>> from selfexplain.models import build_model
        >>> from selfexplain.recipes.options import DataOptions
        >>> from selfexplain.recipes.prepare import load, prepare
        >>> options = DataOptions(data="digits", validation=0.1)
        >>> prepared = prepare(load(options), options, seed=0)
        >>> model = build_model("small_cnn", num_classes=10, in_channels=1)
        >>> logits_NK, y_N = predict_together(
        ...     model, prepared, device=torch.device("cpu"), workers=0
        ... )
        >>> logits_NK.shape, torch.equal(y_N, prepared.scored.labels_N)
        (torch.Size([144, 10]), True)
    """
    count, processes = len(prepared.scored), joined_processes()
    scored = partial(prepared.scored_batches, device=device, workers=workers, corruption=corruption)
    if count < processes.count:  # a part would be empty
        return predict(model, scored().epoch(0))
    part = torch.arange(count)[rank_slice(count, processes.rank, processes.count)]
    only = None if processes.count == 1 else part
    logits_NK, y_N = predict(model, scored(only=only).epoch(0))
    return gathered(logits_NK), gathered(y_N)
