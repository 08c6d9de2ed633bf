"""Compiled and recorded training steps on a GPU: the same as those that run as written."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from tests.helpers.cuda_nets import CLASSES, GPU, SPECS, batch, full_precision, objective
from torch import Tensor, nn

from selfexplain.data import Batches, MemoryImages, load_data
from selfexplain.errors import InputError
from selfexplain.introspection import Introspective
from selfexplain.models import build_model
from selfexplain.objectives import Standard
from selfexplain.training import CompiledParts, TrainingOptions, train
from selfexplain.training.steps import RecordedStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

NOT_CAPTURABLE = [
    "saliency_guided",
    "cgc",
    "distil_part",
    "introspective:control=permuted",
    "introspective:aggregation=class",  # not before the first class mean
    "introspective:warmup_steps=3",
]


def test_compiled_parts_compute_the_same() -> None:
    plain, compiled = objective("introspective").to(GPU), objective("introspective").to(GPU)
    x_BCHW, y_B, _ = batch(GPU)
    with full_precision():
        expected = plain(x_BCHW, y_B)
        with CompiledParts(compiled).used():
            found = compiled(x_BCHW, y_B)
            found["loss"].backward()
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)


def test_a_copy_is_not_compiled() -> None:
    """A copy of a model that was trained compiled runs without the compiled code."""
    made = objective("standard").to(GPU)
    with CompiledParts(made).used():
        x_BCHW, y_B, _ = batch(GPU)
        made(x_BCHW, y_B)["loss"].backward()
        twin = copy.deepcopy(made)
    assert all(module._compiled_call_impl is None for module in twin.modules())


class Scaled(nn.Module):
    """A head whose input is the mean of a map times a number, which is one at first."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, CLASSES)
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)) * self.factor)  # type: ignore[no-any-return]


def test_a_head_that_drifts_is_refused_a_step_later_and_no_step_waits() -> None:
    made = Introspective(Scaled()).to(GPU)
    x_BCHW, y_B = torch.randn(8, 3, 16, 16, device=GPU), torch.arange(8, device=GPU) % CLASSES
    made(x_BCHW, y_B)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            made(x_BCHW, y_B)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    made.model.factor = 1.5
    made(x_BCHW, y_B)
    torch.cuda.synchronize()
    with pytest.raises(InputError, match="not the spatial mean of a feature map"):
        made(x_BCHW, y_B)


def trained(
    spec: str, folder: Path, stop_at: int | None = None, **options: Any
) -> dict[str, Tensor]:
    """Weights and losses of three short epochs in full precision; stopped once at a step or not."""
    images = MemoryImages(
        torch.randint(
            0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        ),
        torch.arange(40) % CLASSES,
    )
    half_C = torch.full((1,), 0.5)

    def once(on_step: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Tensor]:
        made = objective(spec)
        with full_precision():
            model = train(
                made,
                Batches(images, batch_size=8, device=GPU, mean_C=half_C, std_C=half_C),
                TrainingOptions(epochs=3, batch_size=8, lr=0.01, **options),
                fabric=Fabric(accelerator="cuda", devices=1),
                folder=folder,
                resume=True,
                on_step=on_step,
            )
        state = {**made.state_dict(), **{f"trained {k}": t for k, t in model.state_dict().items()}}
        # Extra state is counts of steps, which a recording does not count, and memories as bytes,
        # where numbers that agree up to rounding differ; losses show what is made of both.
        return {name: t for name, t in state.items() if not name.endswith("_extra_state")}

    def stop(done: int, total: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    if stop_at is not None:
        with pytest.raises(KeyboardInterrupt):
            once(stop)
    state = once()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        **state,
        **{f"loss {i}": torch.tensor(json.loads(line)["loss"]) for i, line in enumerate(lines)},
    }


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in NOT_CAPTURABLE])
def test_recorded_steps_train_to_the_same_weights(spec: str, tmp_path: Path) -> None:
    assert objective(spec).capturable
    expected = trained(spec, tmp_path / "as written")
    found = trained(spec, tmp_path / "recorded", cuda_graph=True)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("more", [{"ema": 0.9}, {"clip": 0.1}, {"compile": True}])
def test_recorded_steps_go_with_other_options(more: dict[str, Any], tmp_path: Path) -> None:
    expected = trained("introspective", tmp_path / "as written", **more)
    found = trained("introspective", tmp_path / "recorded", cuda_graph=True, **more)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("spec", ["introspective:warmup_steps=3", "ps_kd"])
def test_recorded_training_continues_where_it_was_stopped(spec: str, tmp_path: Path) -> None:
    """The warm-up ends in the first epoch, so that recording begins with the second."""
    expected = trained(spec, tmp_path / "as written")
    found = trained(spec, tmp_path / "recorded", stop_at=14, cuda_graph=True)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


def test_a_batch_of_another_shape_does_not_disturb_those_that_follow() -> None:
    def gradients(recorded: bool) -> list[Tensor]:
        weight = torch.ones(64, device=GPU, requires_grad=True)

        def step(x_N: Tensor) -> dict[str, Tensor]:
            weight.grad = None
            loss = (weight[: len(x_N)] * x_N).square().sum()
            loss.backward()
            return {"loss": loss.detach()}

        take, found = RecordedStep(step) if recorded else step, []
        for number, count in enumerate([64, 64, 64, 64, 7, 64, 64, 64, 64]):
            take(torch.full((count,), float(number), device=GPU))
            found.append(weight.grad.clone())
        return found

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_recorded_is_one_sentence() -> None:
    weight = torch.ones(3, device=GPU, requires_grad=True)

    def step(x_N: Tensor) -> dict[str, Tensor]:
        weight.grad = None
        loss = (weight * x_N).sum() * float(x_N.sum())
        loss.backward()
        return {"loss": loss.detach()}

    recorded = RecordedStep(step)
    for _ in range(2):
        recorded(torch.ones(3, device=GPU))
    with pytest.raises(InputError, match=r"cannot be captured .* leave out --cuda-graph"):
        recorded(torch.ones(3, device=GPU))
    assert float(torch.ones(3, device=GPU).sum()) == 3  # the device is as usable as before


def test_recorded_steps_on_images_that_are_streamed(tmp_path: Path) -> None:
    """A data loader's thread pins memory while a step is recorded."""
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    for number, image in enumerate(images):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    data = load_data(f"folder:{tmp_path / 'images'}", in_memory_limit=1)
    mean_C, std_C = torch.full((3,), 0.5), torch.full((3,), 0.5)
    torch.manual_seed(0)
    made = Standard(build_model("small_cnn", num_classes=2, in_channels=3))
    train(
        made,
        Batches(data.train, batch_size=8, device=GPU, workers=2, mean_C=mean_C, std_C=std_C),
        TrainingOptions(epochs=3, batch_size=8, cuda_graph=True),
        fabric=Fabric(accelerator="cuda", devices=1),
        folder=tmp_path,
    )
    assert all(t.isfinite().all() for t in made.parameters())


@pytest.mark.parametrize("spec", NOT_CAPTURABLE)
def test_other_steps_are_not_recorded(spec: str) -> None:
    assert not objective(spec).capturable


def test_recorded_steps_draw_new_numbers_each_time() -> None:
    """Dropout in a recording follows the generator, and a new seed makes new masks."""
    weight = torch.ones(1000, device=GPU, requires_grad=True)

    def step(x_N: Tensor) -> dict[str, Tensor]:
        weight.grad = None
        loss = nn.functional.dropout(weight[: len(x_N)] * x_N, 0.5).sum()
        loss.backward()
        return {"loss": loss.detach()}

    recorded = RecordedStep(step)
    x_N = torch.ones(1000, device=GPU)
    losses = [float(recorded(x_N)["loss"]) for _ in range(8)]
    assert recorded.graph is not None
    assert len(set(losses)) > 4
    torch.manual_seed(5)
    first = float(recorded(x_N)["loss"])
    torch.manual_seed(5)
    assert float(recorded(x_N)["loss"]) == first
    assert float(recorded(x_N[:7])["loss"]) <= 14  # another shape runs as written


def test_the_next_recording_takes_over_the_memory_of_the_last() -> None:
    weight = torch.randn(64, 1, 3, 3, device=GPU, requires_grad=True)

    def step(x_BCHW: Tensor) -> dict[str, Tensor]:
        weight.grad = None
        loss = nn.functional.conv2d(x_BCHW, weight).relu().square().mean()
        loss.backward()
        return {"loss": loss.detach()}

    x_BCHW = torch.randn(64, 1, 64, 64, device=GPU)
    recorded, held = None, []
    for _ in range(8):
        recorded = RecordedStep(step, recorded)
        for _ in range(4):
            recorded(x_BCHW)
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[2]
