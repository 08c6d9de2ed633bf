"""What a training writes into its folder beside what it learns."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from selfexplain.data.pixels import Ranges
from selfexplain.errors import InputError
from selfexplain.recipes.environment import environment
from selfexplain.recipes.options import RunConfig, plain
from selfexplain.recipes.prepare import Prepared
from selfexplain.training.files import write_record, write_tensors
from selfexplain.training.log import EpochLog

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


def write_run(config: RunConfig, prepared: Prepared, fabric: Fabric) -> None:
    """Write `run.json`: configuration, environment, and what it takes to prepare an image."""
    write_record(
        config.out / "run.json",
        {
            "schema": 1,
            "config": plain(config, leave_out=("out", "resume")),
            "environment": {**environment(fabric.device), "processes": fabric.world_size},
            "images": {
                "class_names": list(prepared.class_names),
                "shape": list(prepared.train.shape_CHW),
                "mean": prepared.mean_C.tolist(),
                "std": prepared.std_C.tolist(),
                "train": len(prepared.train),
                "scored": len(prepared.scored),
                # Only where there is something to say: most images have 8 bits.
                **({} if prepared.ranges == Ranges() else {"ranges": asdict(prepared.ranges)}),
            },
        },
    )


def write_outcome(
    folder: Path, result: dict[str, Any], model: nn.Module, logits_NK: Tensor, labels_N: Tensor
) -> dict[str, Any]:
    """Write the model, what it says of the scored images, and last the result: the run is done.

    The result then holds the digests of both files too, and is returned.

    Args:
        folder: of the run.
        result: for `result.json`.
        model: of the last epoch.
        logits_NK: of the scored images.
        labels_N: their classes.

    Example:
        >>> import tempfile
        >>> import torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = write_outcome(folder, {}, nn.Linear(2, 3), torch.zeros(1, 3), torch.zeros(1))
        >>> sorted(path.name for path in folder.iterdir())
        ['model.safetensors', 'predictions.safetensors', 'result.json']
    """
    predictions = {"logits": logits_NK, "labels": labels_N}
    files = {"predictions.safetensors": predictions, "model.safetensors": model.state_dict()}
    digests = {name: write_tensors(folder / name, tensors) for name, tensors in files.items()}
    result = {**result, "digests": digests}
    write_record(folder / "result.json", result)
    return result


def median_step_seconds(folder: Path) -> float:
    r"""Seconds of a training step, the median of the epochs' means in `metrics.jsonl`.

    Raises:
        InputError: the file is missing or damaged.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "metrics.jsonl").write_text('{"epoch": 1, "step_seconds": 0.5}\n')
        >>> median_step_seconds(folder)
        0.5
    """
    log = EpochLog(folder)
    values = [record.get("step_seconds") for record in log.read()]
    seconds = [value for value in values if isinstance(value, float)]
    if not seconds:
        raise InputError(
            f"{log.path} is missing or says of no epoch what a step took (step_seconds); put it "
            f"back, or delete {folder / 'checkpoint.pt'} to train this run again"
        )
    return statistics.median(seconds)
