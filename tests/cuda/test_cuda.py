"""On a GPU: the same numbers as on the CPU, and every command from end to end.

These tests are skipped where there is no CUDA device. They are apart from the others so that a
machine with a GPU can run them alone: `pytest tests/cuda`.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from selfexplain import class_maps
from selfexplain.cli import main
from selfexplain.data import Augmentation, Batches, MemoryImages, load_data
from selfexplain.errors import InputError
from selfexplain.explanations import KINDS
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE, LeaSEOptions
from selfexplain.models import build_model
from selfexplain.multilevel import Level, hypergradient
from selfexplain.objectives import Objective, ObjectiveContext, Standard
from selfexplain.recipes.objective_options import ObjectiveOptions
from selfexplain.recipes.objectives import OBJECTIVES, build_objective
from selfexplain.spaces import build_supernet
from selfexplain.training import CompiledParts, TrainingOptions, train
from selfexplain.training.recording import RecordedStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GPU = torch.device("cuda")
CLASSES = 5
NOT_RECORDED = [
    "cs_kd",
    "dlb",
    "byot",
    "dml",
    "saliency_guided",
    "cgc",
    "icasc",
    "lsx",
    "distil_part",
    "introspective:control=permuted",
    "introspective:aggregation=class",
    "introspective:warmup_steps=3",
]
SPECS = [*OBJECTIVES, "introspective:kind=grad_cam,layer=block2,similarity=distance"]
DRAWS_ON_DEVICE = {"cgc", "saliency_guided"}
"""Objectives whose random numbers are the device's, and so differ from those of the CPU."""
DIGITS = ("--data", "digits", "--train-size", "200", "--batch-size", "50", "--epochs", "2")


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


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_the_cpu(kind: str) -> None:
    torch.manual_seed(0)
    model = make_model().eval()
    x_BCHW, _, _ = batch(torch.device("cpu"))
    expected = class_maps(model, x_BCHW, kind=kind)
    random_state = torch.cuda.get_rng_state()
    with full_precision():
        found = class_maps(model.to(GPU), x_BCHW.to(GPU), kind=kind)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.cuda.get_rng_state(), random_state)


@pytest.mark.parametrize("spec", SPECS)
def test_an_objective_steps_as_on_the_cpu(spec: str) -> None:
    """Two steps in full precision."""
    losses = {}
    for device in (torch.device("cpu"), GPU):
        made = objective(spec).to(device).train()
        optimiser = torch.optim.SGD(made.parameters(), lr=0.01)
        torch.manual_seed(0)
        losses[device.type] = []
        for step in range(2):
            x_BCHW, y_B, index_B = batch(device, step)
            with full_precision():
                out = made(x_BCHW, y_B, *([index_B] if made.wants_indices else []))
                optimiser.zero_grad()
                out["loss"].backward()
            optimiser.step()
            assert out["loss"].device.type == device.type
            losses[device.type].append(float(out["loss"].detach()))
    if spec in DRAWS_ON_DEVICE:
        assert all(torch.isfinite(torch.tensor(losses["cuda"])))
    else:
        assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-3)


def test_batches_are_those_of_the_cpu() -> None:
    images = MemoryImages(
        torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64) % 4
    )
    half_C = torch.full((3,), 0.5)
    walked = [
        list(
            Batches(
                images,
                batch_size=16,
                device=device,
                augmentation=Augmentation(crop_padding=1, cutout=2),
                mean_C=half_C,
                std_C=half_C,
            ).indexed_epoch(3)
        )
        for device in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(*walked, strict=True):
        for a, b in zip(on_cpu, on_gpu, strict=True):
            torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["exact", "finite_difference", "one_sided", "inner_product"])
def test_hypergradients_are_those_of_the_cpu(mode: str) -> None:
    torch.manual_seed(0)
    start = {name: torch.randn(4, dtype=torch.float64) for name in ("a", "w", "v")}
    matrix = torch.randn(4, 4, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        m = matrix.to(device)
        levels = [
            Level("w", lambda v, m=m: ((m @ v["w"] - v["a"]).tanh() ** 2).sum(), lr=0.1),
            Level("v", lambda v, m=m: ((m @ v["v"] + v["w"] * v["a"]).sin()).sum(), lr=0.2),
        ]
        gradient = hypergradient(
            levels,
            lambda v: (v["v"] ** 2).sum() + (v["w"] * v["a"]).sum(),
            {name: value.to(device) for name, value in start.items()},
            "a",
            mode=mode,
        )
        found.append(gradient.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-8)


def searches(device: torch.device) -> dict[str, ArchitectureSearch]:
    def supernet() -> nn.Module:
        torch.manual_seed(0)
        net = build_supernet(
            "nasbench201", num_classes=CLASSES, in_channels=1, image_size=8, channels=4, cells=1
        )
        return net.to(device)

    def lease(**options: object) -> ArchitectureSearch:
        explainer, audience = supernet(), make_model().to(device)
        return LeaSE(explainer, audience, options=LeaSEOptions(**options))

    return {
        "darts2": DARTS(supernet(), order=2),
        "sanas": SANAS(supernet()),
        "lease": lease(),
        "lease exact": lease(mode="exact"),
        "lease saliency": lease(control="saliency"),
        "lease shuffled": lease(control="shuffled_delta"),
    }


def test_search_steps_are_those_of_the_cpu() -> None:
    steps = {}
    for device in (torch.device("cpu"), GPU):
        steps[device.type] = {}
        for name, search in searches(device).items():
            with full_precision():
                search.step(batch(device, 0)[:2], batch(device, 1)[:2])
                metrics = search.step(batch(device, 2)[:2], batch(device, 3)[:2])
            steps[device.type][name] = metrics
    for name, metrics in steps["cpu"].items():
        assert steps["cuda"][name] == pytest.approx(metrics, rel=1e-2, abs=1e-4), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["introspective", "standard", "ps_kd", "cs_kd"])
def test_a_run_writes_all_that_the_report_reads(name: str, precision: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--objective", name, "--precision", precision, "--loggers", "tensorboard")
    main(["train", *DIGITS, *words, "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    assert result["accuracy"] > 10
    for file in ("album/epoch-0002.safetensors", "predictions.safetensors", "checkpoint.pt"):
        assert (out / file).exists()
    assert (out / "similarity.safetensors").exists()
    assert "cuda" not in (out / "metrics.jsonl").read_text()
    main(["report", str(out), "--out", str(tmp_path / "report.html")])
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_checkpoint_of_the_gpu_continues(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", *DIGITS, "--objective", "introspective", "--out", str(out)]
    main(words)
    whole = json.loads((out / "result.json").read_text())
    (out / "result.json").unlink()
    main([*words, "--resume"])
    again = json.loads((out / "result.json").read_text())
    assert again["accuracy"] == pytest.approx(whole["accuracy"], abs=1.0)


def test_compiled_parts_compute_the_same() -> None:
    plain, compiled = objective("introspective").to(GPU), objective("introspective").to(GPU)
    x_BCHW, y_B, _ = batch(GPU)
    with full_precision():
        expected = plain(x_BCHW, y_B)
        with CompiledParts(compiled).used():
            found = compiled(x_BCHW, y_B)
            found["loss"].backward()
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)


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
        return {name: t for name, t in state.items() if isinstance(t, Tensor)}

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


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in NOT_RECORDED])
def test_recorded_steps_train_to_the_same_weights(spec: str, tmp_path: Path) -> None:
    assert objective(spec).recordable
    expected = trained(spec, tmp_path / "as written")
    found = trained(spec, tmp_path / "recorded", cuda_graph=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("more", [{"ema": 0.9}, {"clip": 0.1}, {"compile": True}])
def test_recorded_steps_go_with_other_options(more: dict[str, Any], tmp_path: Path) -> None:
    expected = trained("introspective", tmp_path / "as written", **more)
    found = trained("introspective", tmp_path / "recorded", cuda_graph=True, **more)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("spec", ["introspective:warmup_steps=3", "ps_kd"])
def test_recorded_training_continues_where_it_was_stopped(spec: str, tmp_path: Path) -> None:
    """The warm-up ends in the first epoch, so that recording begins with the second."""
    expected = trained(spec, tmp_path / "as written")
    found = trained(spec, tmp_path / "recorded", stop_at=14, cuda_graph=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_a_batch_of_another_shape_does_not_disturb_those_that_follow() -> None:
    def gradients(recorded: bool) -> list[Tensor]:
        weight = torch.ones(64, device=GPU, requires_grad=True)

        def step(x_N: Tensor) -> dict[str, Tensor]:
            weight.grad = None
            loss = (weight[: len(x_N)] * x_N).square().sum()
            loss.backward()
            return {"loss": loss.detach()}

        take, found = RecordedStep(step) if recorded else step, []
        for number, count in enumerate([64, 64, 64, 64, 7, 64, 64]):
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
    with pytest.raises(InputError, match=r"cannot be recorded .* leave out --cuda-graph"):
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


@pytest.mark.parametrize("spec", NOT_RECORDED)
def test_other_steps_are_not_recorded(spec: str) -> None:
    assert not objective(spec).recordable


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


@pytest.mark.parametrize("more", [(), ("--compile",)])
def test_a_run_of_recorded_steps(more: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--precision", "bf16", "--cuda-graph", "--ema", "0.9", "--clip", "1", *more)
    main(["train", *DIGITS, *words, "--objective", "introspective", "--out", str(out)])
    assert json.loads((out / "result.json").read_text())["accuracy"] > 10


def test_a_comparison_on_one_gpu_by_two_workers(tmp_path: Path) -> None:
    out = tmp_path / "compared"
    words = ("--objectives", "standard", "introspective", "--seeds", "0", "1", "--workers", "2")
    fast = ("--cuda-graph", "--precision", "bf16")
    main(["compare", *DIGITS, *words, *fast, "--out", str(out)])
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows) == 4
    hardware = json.loads((out / "compare.json").read_text())["environment"]["hardware"]
    assert hardware == torch.cuda.get_device_name()


@pytest.mark.parametrize("space", ["nasbench201", "darts", "pcdarts"])
def test_a_search_and_its_network(space: str, tmp_path: Path) -> None:
    out = tmp_path / "search"
    tiny = ("--init-channels", "8", "--cells", "1" if space == "nasbench201" else "3")
    words = ("--space", space, "--method", "lease", "--audience", "small_cnn", *tiny)
    main(["search", *DIGITS, *words, "--epochs", "1", "--out", str(out)])
    retrained = ("--genotype", str(out / "genotype.json"), "--out", str(tmp_path / "net"), *tiny)
    main(["retrain", *DIGITS, *retrained, "--epochs", "1", "--objective", "introspective"])
    assert (tmp_path / "net" / "result.json").exists()


def test_a_copy_is_not_compiled() -> None:
    """A copy of a model that was trained compiled runs without the compiled code."""
    made = objective("standard").to(GPU)
    with CompiledParts(made).used():
        x_BCHW, y_B, _ = batch(GPU)
        made(x_BCHW, y_B)["loss"].backward()
        twin = copy.deepcopy(made)
    assert all(module._compiled_call_impl is None for module in twin.modules())
