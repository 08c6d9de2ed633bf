"""Recorded steps of searches on a GPU: the same as those that run as written."""

import pytest
import torch
from tests.helpers.cuda_nets import GPU, full_precision
from torch import Tensor

from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, BaseOptions, LeaSE, LeaSEOptions
from selfexplain.lease.bases import make_base
from selfexplain.lease.options import BaseName
from selfexplain.lease.selection import audience_score, decide, supernet_score
from selfexplain.models import build_model
from selfexplain.spaces import build_supernet
from selfexplain.training.steps import RecordedStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SEARCHES = [
    "darts1",
    "darts2",
    "darts2:inner_product",
    "sanas",
    "lease",
    "lease:finite_difference",
    "lease:forward_over_reverse",
    "lease:normalised",
]


def search(name: str) -> ArchitectureSearch:
    torch.manual_seed(0)
    size = {"num_classes": 3, "in_channels": 3}
    supernet = build_supernet("nasbench201", image_size=16, channels=8, cells=1, **size)
    supernet = supernet.to(GPU, memory_format=torch.channels_last)
    method, _, option = name.partition(":")
    if method in ("darts1", "darts2"):
        mode = option or "finite_difference"
        return DARTS(supernet, order=int(method[-1]), mode=mode)  # type: ignore[arg-type]
    if method == "sanas":
        return SANAS(supernet)
    options = LeaSEOptions(coupling="normalised") if option == "normalised" else LeaSEOptions()
    if option and option != "normalised":
        options = LeaSEOptions(mode=option)  # type: ignore[arg-type]
    audience = build_model("small_cnn", **size).to(GPU, memory_format=torch.channels_last)
    return LeaSE(supernet, audience, options=options)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(16, 3, 16, 16, generator=generator)
    y_B = torch.randint(0, 3, (16,), generator=generator)
    return x_BCHW.contiguous(memory_format=torch.channels_last).to(GPU), y_B.to(GPU)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_recorded_step_is_the_written_one(name: str) -> None:
    written, recorded = search(name), search(name)
    recorded.record(RecordedStep)
    with full_precision():
        for step in range(10):
            losses = []
            for each in (written, recorded):
                each.set_progress(step / 10)
                moves = step >= 4
                losses.append(each.step(batch(step), batch(50 + step), move_architecture=moves))
            assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # Gradients, averaged: where one is near zero, Adam makes a whole step of its rounding.
    for key in recorded.architecture:
        first, second = (
            each.optimizer.state[each.architecture[key]]["exp_avg"] for each in (written, recorded)
        )
        assert float((first - second).norm() / first.norm()) < 1e-2


@pytest.mark.parametrize("base", ["beta_darts", "drnas", "drnas_progressive"])
def test_a_base_draws_and_drops_on_the_gpu_as_on_the_cpu(base: BaseName) -> None:
    relaxed = []
    for device in ("cpu", GPU):
        torch.manual_seed(0)
        supernet = build_supernet(
            "nasbench201", num_classes=3, in_channels=3, image_size=16, channels=8, cells=1
        )
        made = DARTS(supernet.to(device), order=1, base=make_base(BaseOptions(base=base)))
        made.set_progress(0.5)
        relaxed.append([t.detach().cpu().clone() for t in made.relaxed().values()])
        images, held_out = (tuple(t.to(device) for t in batch(seed)) for seed in (1, 2))
        losses = made.step(images, held_out)  # type: ignore[arg-type]
        assert all(value == value for value in losses.values())
        assert made.skipped == 0
    for cpu, gpu in zip(*relaxed, strict=True):
        torch.testing.assert_close(gpu, cpu)


@pytest.mark.parametrize("audiences", [False, True])
def test_a_cell_is_decided_on_the_gpu(audiences: bool) -> None:
    made = search("lease")
    made.record(RecordedStep)
    assert isinstance(made, LeaSE)
    for step in range(4):
        made.step(batch(step), batch(50 + step))

    def batches() -> list[tuple[Tensor, Tensor]]:
        return [batch(8), batch(9)]

    score = (
        audience_score(made, batches, batches, 2) if audiences else supernet_score(made, batches)
    )
    decide(made, score)
    assert sorted(made.kept["cell"].sum(1).tolist()) == [1, 5, 5, 5, 5, 5]
    made.step(batch(4), batch(54))
    assert made.skipped == 0


def test_bf16_takes_steps() -> None:
    made = search("lease")
    made.autocast(torch.bfloat16)
    made.record(RecordedStep)
    for step in range(5):
        losses = made.step(batch(step), batch(50 + step))
    assert all(value == value for value in losses.values())
