"""Every objective in the savers and averages that people use: the same losses after as without.

A saver's file is what lets a broken training go on, so each test trains, saves, loads into a fresh
objective, and compares the losses of the steps that follow with those of the unbroken training.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from tests.helpers.later import Later
from tests.objectives.test_contract import SPECS, arguments, batch, make, steps
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from selfexplain import Introspective
from selfexplain.errors import InputError
from selfexplain.introspection.own_mass import OwnMass
from selfexplain.introspection.target import RunningClassMean
from selfexplain.objectives import CSKD, DLB, PSKD, Mixup, Objective, OnlineLabelSmoothing
from selfexplain.objectives.shared.base import Wrapper
from selfexplain.objectives.shared.memory import Epochs, TensorMemory

pytestmark = pytest.mark.slow

accelerate, lightning, transformers = map(Later, ("accelerate", "lightning", "transformers"))
callbacks = Later("lightning.pytorch.callbacks")
in_lightning, in_huggingface = (
    Later(f"selfexplain.adapters.{name}") for name in ("lightning", "huggingface")
)

REMEMBERING = [
    "introspective:aggregation=class,map_interval=3,ramp_steps=4",
    "introspective:control=permuted",
    "saliency_guided",
    "cgc",
    "cs_kd",
    "dlb",
    "ps_kd",
    "ols",
    "dkd",
    "distil_part:part=permuted",
    "auxiliary+introspective:aggregation=class,map_interval=3,ramp_steps=4",
    "mixup+dlb",
    "cutmix:probability=0.5+mixup:alpha=0.3+confidence_penalty",
]
"""One of each way to remember something; slow savers are shown these."""


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    return request.param


def form(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state, if it is what savers take: tensors, none empty, none twice."""
    state = module.state_dict()
    assert all(isinstance(value, Tensor) and value.numel() for value in state.values())
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    return state


@functools.cache
def _broken_off(spec: str) -> tuple[Objective, list[Any]]:
    unbroken = make(spec)
    steps(unbroken, 3)
    return copy.deepcopy(unbroken), steps(unbroken, 2, first=3)


def broken_off(spec: str) -> tuple[Objective, list[Any]]:
    """An objective after three steps, and what an unbroken training gives in the next two."""
    objective, expected = _broken_off(spec)
    return copy.deepcopy(objective), expected


def test_state_is_tensors_of_constant_shape_from_construction_on(spec: str) -> None:
    objective = make(spec)
    before = form(tensors_of(objective))
    steps(objective, 2)
    x, y, *rest = arguments(objective)
    objective(x[:5], y[:5], *(index[:5] for index in rest))["loss"].backward()  # the last batch
    assert form(tensors_of(objective)) == before
    assert form(copy.deepcopy(objective).state_dict()) == before


def test_safetensors(spec: str, tmp_path: Path) -> None:
    saved, expected = broken_off(spec)
    first, second = make(spec), make(spec)
    save_file(saved.state_dict(), tmp_path / "file")
    save_model(saved, str(tmp_path / "model"))
    first.load_state_dict(load_file(tmp_path / "file"))
    load_model(second, tmp_path / "model")
    assert steps(first, 2, first=3) == expected
    assert steps(second, 2, first=3) == expected


def equal_weights(objective: Objective) -> AveragedModel:
    return AveragedModel(objective, use_buffers=True)


def moving(objective: Objective) -> AveragedModel:
    average = get_ema_multi_avg_fn(0.9)
    return AveragedModel(objective, multi_avg_fn=average, use_buffers=True)


@pytest.mark.parametrize("averaged", [equal_weights, moving])
def test_average_of_an_objective(spec: str, averaged: Callable[[Objective], AveragedModel]) -> None:
    objective = make(spec)
    average = averaged(objective)
    for i in range(3):
        steps(objective, 1, first=i)
        average.update_parameters(objective)
    tensors_of(average)
    assert average.module.eval()(*arguments(objective))["loss"].isfinite()
    resumed = averaged(make(spec))
    resumed.load_state_dict(average.state_dict())
    steps(objective, 1, first=3)
    for each in (average, resumed):
        each.update_parameters(objective)
    same = zip(average.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_timm_average_of_an_objective(spec: str) -> None:
    ema = pytest.importorskip("timm.utils.model_ema", reason="timm is an extra")
    objective = make(spec)
    average = ema.ModelEmaV3(objective, decay=0.5)
    steps(objective, 2)
    average.update(objective)
    mine, theirs = objective.state_dict(), tensors_of(average.module)
    for name, value in mine.items():  # what is no weight is copied, counts and memories too
        assert value.is_floating_point() or torch.equal(theirs[name], value), name
    assert average.module(*arguments(objective))["loss"].isfinite()


class Images(Dataset):
    """The batches of the contract test, image by image."""

    def __init__(self, indices: bool) -> None:
        batches = [batch(seed) for seed in range(3)]
        self.x, self.y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.indices = indices

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {"pixel_values": self.x[i], "labels": self.y[i]}
        return item | ({"index": i} if self.indices else {})


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("name", REMEMBERING)
def test_lightning(name: str, averages: bool, tmp_path: Path) -> None:
    class Losses(lightning.Callback):
        """Those of the training steps."""

        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            self.seen.append(outputs["loss"].item())

    def fit(path: Path | None = None) -> list[float]:
        losses = Losses()
        average = [callbacks.EMAWeightAveraging(decay=0.5)] if averages else []
        save = callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        trainer = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=2,
            callbacks=[losses, save, *average],
        )
        loader = DataLoader(Images(name == "ps_kd"), batch_size=10)  # the last has 4
        trainer.fit(in_lightning.ObjectiveModule(make(name), sgd), loader, ckpt_path=path)
        return losses.seen

    expected, path = fit(), tmp_path / "epoch=0.ckpt"
    assert fit(path) == expected[3:]
    loaded = in_lightning.ObjectiveModule.load_from_checkpoint(path, objective=make(name))
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(v, saved[k]) for k, v in tensors_of(loaded).items())


@pytest.mark.parametrize("name", REMEMBERING)
def test_huggingface(name: str, tmp_path: Path) -> None:
    class Recording(in_huggingface.ObjectiveTrainer):
        """A Trainer that writes down its losses."""

        def training_step(self, *arguments: Any, **options: Any) -> Tensor:
            loss = super().training_step(*arguments, **options)
            self.losses = [*getattr(self, "losses", []), loss.item()]
            return loss

    def trainer(**options: Any) -> Recording:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=10,
            per_device_eval_batch_size=24,
            num_train_epochs=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        data = Images(name == "ps_kd")
        return Recording(make(name), arguments, train_dataset=data, eval_dataset=data)

    first = trainer(save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True)
    first.train()
    best = load_file(Path(first.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(v, best[k]) for k, v in tensors_of(first.model).items())
    again = trainer(save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.losses == first.losses[3:]


def test_accelerate(spec: str, tmp_path: Path) -> None:
    saved, expected = broken_off(spec)
    fresh = make(spec)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(saved)
    accelerator.save_state(str(tmp_path))
    assert steps(prepared, 1, first=3) == expected[:1]
    other = accelerate.Accelerator(cpu=True)
    resumed = other.prepare(fresh)
    other.load_state(str(tmp_path))
    assert steps(resumed, 2, first=3) == expected


def as_0_1_0(objective: Objective) -> dict[str, Any]:
    """The state as version 0.1.0 wrote it.

    Counts were dictionaries, memories a tensor for each name (empty before the first batch), class
    means had no count and a boolean `seen_K`, and what is wrapped has its model under two names.
    """
    state: dict[str, Any] = dict(objective.state_dict())
    for prefix, module in objective.named_modules():
        start = f"{prefix}." if prefix else ""
        if isinstance(module, (RunningClassMean, Epochs, TensorMemory)):
            del state[f"{start}_extra_state"]
        elif hasattr(module, "counts"):
            names = module.counts.names
            state[f"{start}_extra_state"] = {name: module.counts[name] for name in names}
        if isinstance(module, TensorMemory):
            del state[f"{start}table._extra_state"]
            for name in module.names:
                state[start + name] = torch.empty(0) if module.empty else module[name]
        if isinstance(module, Introspective):
            means = module.class_mean
            begun = means is not None and means.started
            state[f"{start}class_mean.mean_KK"] = means.mean_KK if begun else torch.empty(0, 0)
            state[f"{start}class_mean.seen_K"] = (means.seen_K if begun else torch.empty(0)) > 0
        if isinstance(module, Wrapper):
            for name, value in module.model.state_dict().items():
                state[f"{start}model.{name}"] = value
    return state


@pytest.mark.parametrize("count", [0, 3])
def test_checkpoints_of_0_1_0_are_continued(spec: str, count: int) -> None:
    unbroken, expected = broken_off(spec) if count else (make(spec), None)
    fresh = make(spec)
    old = copy.deepcopy(as_0_1_0(unbroken))
    before = form(fresh.state_dict())
    fresh.load_state_dict(old)
    assert form(fresh.state_dict()) == before
    expected = expected or steps(unbroken, 2)
    assert steps(fresh, 2, first=count) == expected


def test_a_model_that_an_old_file_holds_once_is_found_by_what_wraps_it() -> None:
    """safetensors left one of two names of a tensor out."""
    unbroken, fresh = make("auxiliary+standard"), make("auxiliary+standard")
    steps(unbroken, 1)
    inside = unbroken.model.state_dict().items()
    fresh.load_state_dict({f"model.{name}": value for name, value in inside})
    assert steps(fresh, 1) == steps(unbroken, 1)


@pytest.mark.parametrize("kind", [CSKD, DLB])
def test_what_has_no_room_is_remembered_beside_the_checkpoint(kind: type[Objective]) -> None:
    roomy, cramped = (kind(make("standard").model, memory_bytes=n) for n in (10**5, 100))
    before = form(cramped.state_dict())
    with pytest.warns(UserWarning, match="pass memory_bytes=[0-9]+ to the objective") as warned:
        losses = steps(cramped, 3)
    assert len(warned) == 1
    assert losses == steps(roomy, 3)
    assert form(cramped.state_dict()) == before
    needed = int(str(warned[0].message).split("memory_bytes=")[1].split()[0])
    exact = kind(make("standard").model, memory_bytes=needed)
    assert steps(exact, 3) == losses
    again = kind(make("standard").model, memory_bytes=needed)
    again.load_state_dict(exact.state_dict())
    assert steps(again, 1) == steps(exact, 1)
    with pytest.raises(InputError, match=f"pass memory_bytes={needed} to the objective"):
        cramped.load_state_dict(exact.state_dict())


def test_room_that_differs_is_no_matter_where_it_does_for_the_content() -> None:
    small, large = (DLB(make("standard").model, memory_bytes=n) for n in (10**4, 10**5))
    steps(small, 2)
    large.load_state_dict(small.state_dict())
    assert steps(large, 1) == steps(small, 1)


def test_class_means_know_their_shape_from_the_model_or_by_argument() -> None:
    class Misleading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = make("standard").model
            self.unused = nn.Linear(3, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(x)

    given, guessed = (
        Introspective(Misleading(), aggregation="class", num_classes=n) for n in (5, None)
    )
    before = form(given.state_dict())
    given(*arguments(given))
    assert form(given.state_dict()) == before
    with pytest.warns(UserWarning, match="made for 9 classes.* of 5; pass num_classes=5"):
        guessed(*arguments(guessed))
    guessed.load_state_dict(given.state_dict())


def test_soft_labels_are_made_once_of_an_epoch_that_is_told_twice() -> None:
    """Some loops tell again, after loading, of the epoch that goes on."""
    unbroken, fresh = make("ols"), make("ols")
    steps(unbroken, 2)
    fresh.load_state_dict(unbroken.state_dict())
    fresh.begin_epoch(1, 4)
    assert steps(fresh, 2) == steps(unbroken, 2)
    for each in (fresh, unbroken):
        assert isinstance(each, OnlineLabelSmoothing)
        each.begin_epoch(2, 4)
        assert not each.sums_KK.any()
    assert steps(fresh, 1) == steps(unbroken, 1)


def test_state_is_not_cast_or_lost_with_the_model() -> None:
    objective = make("introspective:form=ce_kl,aggregation=class")
    steps(objective, 1)
    means = objective.class_mean.mean_KK.clone()
    before = {k: v for k, v in form(objective.state_dict()).items() if "class_mean" in k}
    objective.half().float()
    after = {k: v for k, v in form(objective.state_dict()).items() if "class_mean" in k}
    assert after == before
    assert torch.equal(objective.class_mean.mean_KK, means)
    with torch.device("meta"):  # where counts are read all the same
        assert Mixup(objective=make("standard"), num_classes=5).steps == 0


@pytest.mark.parametrize("name", ["ps_kd", "own_mass", "ols", "distil_part"])
def test_what_is_summed_up_keeps_its_precision(name: str) -> None:
    objective = make(name)
    own = {key: t.dtype for key, t in objective.named_buffers() if "model" not in key}
    assert own
    objective.bfloat16().half()
    assert {key: objective.get_buffer(key).dtype for key in own} == own
    x, *rest = arguments(objective)
    assert objective(x.half(), *rest)["loss"].isfinite()
    objective.double()
    assert {objective.get_buffer(key).dtype for key in own} == {torch.float64}


@pytest.mark.parametrize(
    ("build_with", "other", "said"),
    [
        (
            lambda n, k: PSKD(nn.Linear(2, 2), num_images=n, num_classes=k),
            (12, 5),
            "num_images=12 and num_classes=5, and this objective with num_images=10 and num",
        ),
        (lambda n, _: OwnMass(nn.Linear(2, 2), num_images=n), (12, 5), "num_images=12, and this"),
        (
            lambda _, k: OnlineLabelSmoothing(nn.Linear(2, 2), num_classes=k),
            (10, 6),
            "num_classes=6, and this objective with num_classes=5",
        ),
    ],
)
def test_a_memory_of_other_images_or_classes_is_called_that(
    build_with: Callable[..., Objective], other: tuple[int, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        build_with(10, 5).load_state_dict(build_with(*other).state_dict())


def test_counts_of_another_objective_are_refused() -> None:
    with pytest.raises(InputError, match="in place of seed and step"):
        make("cgc").random.set_extra_state(torch.zeros(3))
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match="pass a whole number from 0 to"):
            Mixup(make("standard"), num_classes=5, seed=seed)
    first, second = (Mixup(make("standard"), num_classes=5, seed=s) for s in (2**64 - 1, 0))
    second.load_state_dict(first.state_dict())
    assert second.seed == 2**64 - 1
