"""What all tests share, those of the docstrings in src/ included."""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

# One thread a process, also in those that tests start: idle threads of several processes on few
# cores spin, and small tensors gain nothing from more. Set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A process that dies of a signal says where; pytest does so for its own.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

import torch

torch.set_num_threads(1)

# timm needs torchvision, whose compiled operators may not load beside a CPU build of torch: the
# Makefile puts both into a folder of their own, where nothing but these tests finds them.
TIMM = Path(sys.prefix) / "timm"


class _Timm(importlib.abc.MetaPathFinder):
    """Finds both in this process alone: those that tests start inherit sys.path."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002 - as it is called
        if name not in ("timm", "torchvision"):
            return None
        return importlib.machinery.PathFinder.find_spec(name, [str(TIMM)], target)


if importlib.util.find_spec("timm") is None and TIMM.is_dir():
    sys.meta_path.append(_Timm())
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
