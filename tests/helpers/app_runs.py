"""Two small runs for the tests of the app."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from selfexplain.experiments.data import load
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.training import TrainingOptions


def make_runs(folder: Path) -> tuple[Path, Path]:
    """An introspective and a standard run on digits; the first has kept three images."""
    data = DataOptions(data="digits", train_size=300)
    for spec in ("introspective", "standard"):
        config = TrainConfig(
            data=data,
            objective=spec,
            training=TrainingOptions(epochs=2),
            out=folder / spec,
        )
        run_training(config)
    test = load(data).test
    save_file(
        {"images": test.read(torch.arange(3)), "labels": test.labels_N[:3].clone()},
        folder / "introspective" / "album" / "images.safetensors",
    )
    shutil.rmtree(folder / "standard" / "album")  # as in a run of an older version
    return folder / "introspective", folder / "standard"
