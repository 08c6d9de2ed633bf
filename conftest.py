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

# Gradio asks for an older Pillow than the pinned one, so it has a folder of its own too. The app's
# tests start the app with that folder, and that Pillow, first; here it is for imports alone.
APP = Path(sys.prefix) / "app"
if importlib.util.find_spec("gradio") is None and APP.is_dir():
    sys.path.append(str(APP))
collect_ignore = [] if importlib.util.find_spec("gradio") else ["src/selfexplain/app/page.py"]
