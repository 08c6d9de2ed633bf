"""What all tests share, those of the docstrings in src/ included."""

import gc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# One thread a process, also in those that tests start: idle threads of several processes on few
# cores spin, and small tensors gain nothing from more. Set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A process that dies of a signal says where; pytest does so for its own.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

import pytest
import torch

from selfexplain.experiments.runtime import by_version_alone

with by_version_alone("torchmetrics"):  # or all of it, in every worker
    import lightning_fabric  # noqa: F401

from selfexplain.training import cost

# Costs are timed anew until they are known to 3 %, for which tests of other things need not wait.
cost.MORE_SECONDS = 0.0
torch.set_num_threads(1)
# What is imported stays: looking through it for garbage, again and again, takes seconds.
gc.disable()


# Their examples are run by the tests of each: every worker collects everything, and these import
# Gradio, Lightning, timm, transformers, MLflow and wandb.
collect_ignore = [
    f"src/selfexplain/{name}.py"
    for name in (
        "app/page",
        "adapters/accelerate",
        "adapters/huggingface",
        "adapters/lightning",
        "adapters/timm",
        "adapters/timm_script",
        "training/loggers/mlflow",
        "training/loggers/wandb",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first and docstrings' examples last, so that all workers end together."""
    items.sort(key=lambda item: (not item.get_closest_marker("slow"), _is_example(item)))


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among what tests make."""
    gc.freeze()
    gc.enable()


def _is_example(item: pytest.Item) -> bool:
    return isinstance(item, pytest.DoctestItem)


# timm needs torchvision, whose compiled operators may not load beside a CPU build of torch: the
# Makefile puts both into a folder of their own, where nothing but these tests finds them. It is not
# on sys.path, which workers inherit: they would find torchvision without what is defined below.
TIMM = Path(sys.prefix) / "timm"


class InFolderOfTimm:
    """Finds what nothing else finds in TIMM."""

    def find_spec(self, name: str, path: Any, _: Any = None) -> ModuleSpec | None:
        """As `importlib` asks for it; parts of a package have a path and are found without this."""
        return PathFinder.find_spec(name, [str(TIMM)]) if path is None else None


if importlib.util.find_spec("timm") is None and TIMM.is_dir():
    sys.meta_path.append(InFolderOfTimm())
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
