"""What all tests share, those of the docstrings in src/ included."""

import importlib.util
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

# timm needs torchvision, whose compiled operators may not load beside a CPU build of torch: the
# Makefile puts both into a folder of their own, where nothing but these tests finds them.
TIMM = Path(sys.prefix) / "timm"
if importlib.util.find_spec("timm") is None and TIMM.is_dir():
    sys.path.append(str(TIMM))
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
