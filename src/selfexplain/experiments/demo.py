"""The demo: a photograph explained; then three objectives, three seeds and a search on digits."""

from pathlib import Path

import matplotlib
import torch

from selfexplain.data import ImageData, MemoryImages
from selfexplain.experiments.data import read_images
from selfexplain.experiments.explain.explain import (
    TOP,
    explain_tensor,
    load_published,
    load_run,
)
from selfexplain.experiments.fit.teacher import run_folder
from selfexplain.experiments.options import CompareConfig, DataOptions
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.lease import Rates
from selfexplain.report import save_figure
from selfexplain.training import TrainingOptions

PHOTOGRAPH = Path("sample_data", "grace_hopper.jpg")
"""Rear Admiral Grace M. Hopper, in uniform; James S. Davis for the U.S. Navy, 1984, public domain.

It comes with matplotlib.
"""


def demo_photograph(out: Path) -> Path:
    """Explain a photograph by a network that knows ImageNet: its five most probable classes."""
    run = load_published("efficientnet_lite0")
    images_BCHW = read_images([Path(matplotlib.get_data_path()) / PHOTOGRAPH], run.shape_CHW)
    figure = explain_tensor(run, images_BCHW, top=TOP)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "photograph.png"
    save_figure(figure, path)
    return path


def demo_config(out: Path) -> CompareConfig:
    """Standard training, label smoothing and introspection on scikit-learn's digits.

    300 training images leave room for a difference: with all of them every method is right on 99 %.
    """
    return CompareConfig(
        data=DataOptions(data="digits", image_size=16, train_size=300),
        training=TrainingOptions(epochs=30, batch_size=50),
        model="small_cnn",
        out=out,
    )


def demo_search(out: Path) -> SearchConfig:
    """A short LeaSE search of a NAS-Bench-201 cell on the digits."""
    return SearchConfig(
        data=DataOptions(data="digits"),
        space="nasbench201",
        method="lease",
        init_channels=8,
        cells=1,
        epochs=6,
        rates=Rates(architecture_lr=0.02),  # few steps, so large ones
        out=out / "search",
        resume=True,
    )


def demo_picture(config: CompareConfig, data: ImageData) -> Path:
    """Explain one test image of each of six classes by the first introspective run."""
    run = load_run(run_folder(config.out, "introspective", config.seeds[0]))
    first = [int((data.test.labels_N == k).nonzero()[0]) for k in range(3, 9)]
    assert isinstance(data.test, MemoryImages)
    path = config.out / "explanations.png"
    save_figure(explain_tensor(run, data.test.read(torch.tensor(first))), path)
    return path
