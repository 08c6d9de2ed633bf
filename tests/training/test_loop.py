"""The loop: resumption, averaging, precision, divergence, and the state of the caller."""

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.experiments.objectives import build_objective
from selfexplain.experiments.options import DeviceOptions
from selfexplain.experiments.runtime import launch
from selfexplain.introspection import Introspective
from selfexplain.objectives import Objective, Standard
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.objectives.shared.base import ObjectiveContext
from selfexplain.training import DivergedError, TrainingOptions, train
from selfexplain.training.checkpoint import load_checkpoint, save_checkpoint
from selfexplain.training.cost import interleaved_cost
from selfexplain.training.log import EpochLog
from selfexplain.training.loop import cosine_with_warmup, start
from selfexplain.training.processes import synchronize_batch_norm
from selfexplain.training.steps import RecordedStep, gradient_step


class Batches:
    """Three fixed batches an epoch."""

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(3):
            x = torch.randn(8, 1, 6, 6, generator=generator)
            yield x, torch.randint(0, 4, (8,), generator=generator)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3)),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(6, 4),
    )


def run(
    folder: Path, objective: Objective | None = None, epochs: int = 4, **more: Any
) -> nn.Module:
    names = ("ema", "clip", "precision", "optimizer", "lr", "weight_decay", "compile")
    options = {k: more.pop(k) for k in names if k in more}
    return train(
        objective if objective is not None else Standard(model()),
        Batches(),
        TrainingOptions(epochs=epochs, batch_size=8, **options),
        fabric=more.pop("fabric", Fabric(accelerator="cpu", devices=1)),
        folder=folder,
        **more,
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


class Stop(Exception):  # noqa: N818
    """Raised to cut a run off."""


def stop_in_epoch(at: int) -> Any:
    def on_step(done: int, total: int) -> None:
        assert total == 12
        if done == 3 * at + 2:
            raise Stop

    return on_step


@pytest.mark.parametrize(
    ("ema", "at", "optimizer"),
    [(0.0, 0, "sgd"), (0.0, 2, "sgd"), (0.9, 0, "sgd"), (0.9, 2, "adamw"), (0.0, 2, "muon")],
)
def test_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, ema: float, at: int, optimizer: str
) -> None:
    def objective() -> Objective:
        return Introspective(model(), aggregation="class", map_interval=2)

    how = {"ema": ema, "optimizer": optimizer}
    unbroken = run(tmp_path / "a", objective(), **how)
    with pytest.raises(Stop):
        run(tmp_path / "b", objective(), **how, on_step=stop_in_epoch(at))
    resumed = run(tmp_path / "b", objective(), **how, resume=True)
    assert same(unbroken, resumed)
    without_times = [
        [{k: v for k, v in line.items() if k != "step_seconds"} for line in EpochLog(path).read()]
        for path in (tmp_path / "a", tmp_path / "b")
    ]
    assert without_times[0] == without_times[1]
    assert [line["epoch"] for line in without_times[0]] == [1, 2, 3, 4]


def test_what_is_set_before_an_epoch_is_set_again_on_resumption(tmp_path: Path) -> None:
    def dropping(epochs: list[int]) -> dict[str, Any]:
        objective = Standard(model())
        dropout = objective.model.get_submodule("5")

        def before_epoch(epoch: int) -> None:
            epochs.append(epoch)
            dropout.p = 0.2 * epoch

        return {"objective": objective, "before_epoch": before_epoch}

    seen: list[int] = []
    unbroken = run(tmp_path / "a", **dropping([]))
    with pytest.raises(Stop):
        run(tmp_path / "b", **dropping([]), on_step=stop_in_epoch(2))
    assert same(unbroken, run(tmp_path / "b", **dropping(seen), resume=True))
    assert seen == [2, 3]


def test_two_seeds_differ_and_one_seed_repeats(tmp_path: Path) -> None:
    first, again, other = (run(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert same(first, again)
    assert not same(first, other)  # dropout differs


def test_callers_generator_is_given_back(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    objective = Standard(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 4)))
    torch.manual_seed(5)
    run(tmp_path, objective)
    assert torch.equal(torch.rand(3), expected)


def test_average_of_weights_by_definition(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    objective = Standard(model())
    averaged = run(
        tmp_path,
        objective,
        ema=0.5,
        on_step=lambda done, total: seen.append(objective.model[0][0].weight.detach().clone()),
    )
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    torch.testing.assert_close(averaged[0][0].weight, expected)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    lr, clip = 0.1, 1e-2

    def moved(folder: str, clip: float) -> float:
        trained = run(tmp_path / folder, Standard(model()), epochs=1, lr=lr, clip=clip)
        pairs = zip(model().parameters(), trained.parameters(), strict=True)
        return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))

    # Three Nesterov steps of momentum 0.9 along one direction move 1.9 + 2.71 + 3.44 = 8.05 times
    # lr clip; weight decay, 5e-4 of weights of norm below 4, adds at most a fifth.
    assert 0 < moved("clipped", clip) < 1.2 * 8.05 * lr * clip < moved("free", 0.0)


def test_bf16_trains(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    trained = run(tmp_path, fabric=fabric)
    assert all(p.dtype == torch.float32 for p in trained.parameters())
    assert not same(trained, run(tmp_path / "fp32"))


class NanAfter(Objective):
    """Standard loss that becomes NaN from a given step on."""

    def __init__(self, step: int) -> None:
        super().__init__(model())
        self.left = step

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        logits_BK = self.model(x_BCHW)
        loss = nn.functional.cross_entropy(logits_BK, y_B)
        self.left -= 1
        return {"loss": loss * float("nan") if self.left < 0 else loss, "output": logits_BK}


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"nan in epoch 3, step 2; the checkpoint of epoch 2"):
        run(tmp_path, NanAfter(7))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["epochs_done"] == 2
    assert all(v.isfinite().all() for k, v in state["objective"].items() if "model" in k)


def test_weights_that_explode_in_the_last_step_do_not_reach_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run(tmp_path, lr=1e30, weight_decay=1e30)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_clipping_an_infinite_gradient_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="pass a smaller --lr"):
        run(tmp_path, clip=1.0, lr=1e30)


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1, identity="one")
    with pytest.raises(InputError, match="another configuration"):
        run(tmp_path, epochs=2, identity="two", resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", None),
        ("format", 2),
        ("objective", None),
        ("objective", "garbage"),
        ("objective", {"model.0.weight": torch.zeros(1)}),
        ("optimiser", None),
        ("optimiser", "garbage"),
        ("average", None),
        ("average", "garbage"),
        ("precision", None),
        ("epochs_done", None),
        ("epochs_done", "garbage"),
    ],
)
def test_damaged_checkpoint_is_one_sentence(name: str, value: object, tmp_path: Path) -> None:
    """Its identity is right; one entry is missing (None) or another."""
    run(tmp_path, epochs=1, ema=0.9)
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path)
    del state[name]
    save_checkpoint(path, state if value is None else {**state, name: value})
    with pytest.raises(InputError, match=name if value is None else "checkpoint") as refused:
        run(tmp_path, epochs=2, ema=0.9, resume=True)
    said = str(refused.value)
    assert str(path) in said
    assert "; it is " in said
    assert "\n" not in said


def test_score_is_logged_after_every_epoch(tmp_path: Path) -> None:
    run(tmp_path, epochs=2, score=lambda m: {"accuracy": 12.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["accuracy"] for line in lines] == [12.5, 12.5]


def test_schedule_is_linear_then_cosine() -> None:
    factors = [cosine_with_warmup(s, 100, 10) for s in range(100)]
    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    for s in range(10, 100):
        assert factors[s] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * (s - 10) / 90))
    fractional = [cosine_with_warmup(s, 10, 1.5) for s in range(10)]
    assert fractional[0] == pytest.approx(1 / 1.5)
    assert fractional[1] == 1


def test_options_out_of_limits_are_named() -> None:
    for options, message in {
        ("epochs", 0): "epochs is 0; pass a whole number of at least 1",
        ("batch_size", 0): "batch_size is 0",
        ("lr", 0.0): "lr is 0",
        ("ema", 1.0): "ema is 1",
        ("momentum", 0.0): "momentum is 0; pass a number above 0 and below 1",
        ("clip", -1.0): "clip is -1",
        ("lr", float("nan")): "lr is nan; pass a finite number",
        ("warmup_epochs", 30.0): "warmup_epochs is 30; pass fewer",
    }.items():
        with pytest.raises(InputError, match=message):
            TrainingOptions(**{options[0]: options[1]})


def test_the_cost_of_a_step_is_that_of_its_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle of two steps that takes three times as long costs 1.5; by a clock that we turn."""
    clock = {"now": 0.0}
    monkeypatch.setattr("selfexplain.training.cost.time.perf_counter", lambda: clock["now"])

    class Timed(Standard):
        seconds = 1.0

        def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
            clock["now"] += self.seconds
            return super().forward(x_BCHW, y_B)

    plain, cycle = Timed(model()), Timed(model())
    cycle.seconds, cycle.period = 1.5, 2
    batch = (torch.randn(8, 1, 6, 6), torch.arange(8) % 4, torch.arange(8))
    fabric = Fabric(accelerator="cpu", devices=1)
    costs = interleaved_cost(
        {"plain": plain, "cycle": cycle}, "plain", batch, fabric=fabric, most_seconds=17.0
    )
    assert costs["plain"].ratio == 1
    assert costs["cycle"].step_seconds == 1.5
    assert costs["cycle"].ratio == 1.5


@pytest.mark.parametrize(
    ("spread", "more_seconds", "rounds"),
    [(0.001, 1e9, 10), (0.1, 1e9, None), (0.1, 50.0, 22), (0.1, 0.0, 10)],
)
def test_costs_are_timed_until_they_are_known(
    spread: float, more_seconds: float, rounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds are added until the interval is below 3 %, or for so many seconds: 2 a round."""
    clock, generator = {"now": 0.0}, random.Random(0)
    monkeypatch.setattr("selfexplain.training.cost.time.perf_counter", lambda: clock["now"])

    class Timed(Standard):
        spread, steps = 0.0, 0

        def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
            clock["now"] += 1.0 + self.spread * generator.uniform(-1, 1)
            self.steps += 1
            return super().forward(x_BCHW, y_B)

    plain, noisy = Timed(model()), Timed(model())
    noisy.spread = spread
    batch = (torch.randn(8, 1, 6, 6), torch.arange(8) % 4, torch.arange(8))
    cost = interleaved_cost(
        {"plain": plain, "noisy": noisy},
        "plain",
        batch,
        fabric=Fabric(accelerator="cpu", devices=1),
        rounds=10,
        most_seconds=1e9,
        more_seconds=more_seconds,
    )["noisy"]
    assert cost.ratio_ci95 is not None
    low, high = cost.ratio_ci95
    assert low <= cost.ratio <= high
    counted = noisy.steps - 3
    if rounds is None:
        assert counted > 30
        assert high - low <= 0.03 * cost.ratio
    else:
        assert abs(counted - rounds) <= 1
        assert (high - low <= 0.03 * cost.ratio) == (spread < 0.1)


def test_a_recorded_step_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r"cuda_graph needs one CUDA device, and this is 1 x cpu"):
        launch(DeviceOptions(accelerator="cpu"), TrainingOptions(cuda_graph=True))
    with pytest.raises(InputError, match="cuda_graph goes with bf16 or fp32"):
        TrainingOptions(cuda_graph=True, precision="fp16")


class TwoProcesses(Fabric):
    """One process that is told that there are two."""

    @property
    def world_size(self) -> int:
        return 2


@pytest.mark.parametrize(("asked", "kind"), [(True, "SyncBatchNorm"), (False, "BatchNorm2d")])
def test_batch_norms_of_several_processes_are_synchronized_if_asked(asked: bool, kind: str) -> None:
    objective = Standard(model())
    norm, before = objective.model[1], copy.deepcopy(objective.state_dict())
    norm.weight.requires_grad_(False)
    options = TrainingOptions(sync_batchnorm=asked, ema=0.5)
    begun = start(objective, options, TwoProcesses(accelerator="cpu", devices=1))
    assert type(objective.model[1]).__name__ == kind
    assert type(begun.evaluated_model[1]).__name__ == kind
    assert objective.model[1].weight is norm.weight
    assert objective.model[1].training
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)
    Standard(model()).load_state_dict(objective.state_dict())  # of ordinary BatchNorms


def test_one_process_has_nothing_to_synchronize() -> None:
    objective = Standard(model())
    start(objective, TrainingOptions(sync_batchnorm=True), Fabric(accelerator="cpu", devices=1))
    assert type(objective.model[1]) is nn.BatchNorm2d


def test_several_processes_on_cpus_cannot_synchronize() -> None:
    """Refused before the others are started."""
    with pytest.raises(InputError, match="does not run on cpu; leave out --sync-batchnorm"):
        launch(DeviceOptions(accelerator="cpu", devices=2), TrainingOptions(sync_batchnorm=True))
    with pytest.raises(InputError, match="pass --no-freeze-norm"):
        TrainingOptions(sync_batchnorm=True, freeze_norm=True)


@pytest.mark.parametrize("spec", ["cgc", "icasc", "lsx", "saliency_guided"])
def test_losses_that_hold_gradients_are_not_synchronized(spec: str) -> None:
    context = ObjectiveContext(num_classes=4, image_shape=(1, 6, 6), num_images=9, make_model=model)
    objective = build_objective(spec, model(), ObjectiveOptions(), context)
    if spec == "saliency_guided":  # takes gradients, and none through them
        synchronize_batch_norm(objective)
    else:
        with pytest.raises(InputError, match="no second derivatives; leave out --sync-batchnorm"):
            synchronize_batch_norm(objective)


class Counting(Standard):
    """A subclass that says nothing of its steps."""


@pytest.mark.parametrize(("kind", "capturable"), [(Standard, True), (Counting, False)])
def test_only_objectives_that_say_so_themselves_are_recorded(
    kind: type[Objective], capturable: bool
) -> None:
    objective, fabric = kind(model()), Fabric(accelerator="cpu", devices=1)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
    step = gradient_step(objective, wrapped, wrapped_optimizer, fabric, cuda_graph=True)
    assert isinstance(step, RecordedStep) is capturable
