"""What the tests on a GPU share: a small network, its objectives, and a batch of images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from selfexplain.experiments.objectives import OBJECTIVES, build_objective
from selfexplain.models import build_model
from selfexplain.objectives import Objective, ObjectiveContext
from selfexplain.objectives.options import ObjectiveOptions

GPU = torch.device("cuda")
CLASSES = 5
SPECS = [*OBJECTIVES, "introspective:kind=grad_cam,layer=block2,similarity=distance"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in float32 proper: TF32 keeps ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def make_model() -> nn.Module:
    return build_model("small_cnn", num_classes=CLASSES, in_channels=1)


def batch(device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(8, 1, 8, 8, generator=generator)
    y_B = torch.randint(0, CLASSES, (8,), generator=generator)
    return x_BCHW.to(device), y_B.to(device), torch.arange(8, device=device)


def objective(spec: str) -> Objective:
    torch.manual_seed(0)
    context = ObjectiveContext(
        num_classes=CLASSES,
        image_shape=(1, 8, 8),
        num_images=40,
        make_model=make_model,
        teacher=make_model(),
    )
    made = build_objective(spec, make_model(), ObjectiveOptions(), context)
    made.begin_epoch(1, 4)
    return made
