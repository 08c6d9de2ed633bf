"""Every objective in the savers and averages that people use: the same losses after as without.

A saver's file is what lets a broken training go on, so each test trains, saves, loads into a fresh
objective, and compares the losses of the steps that follow with those of the unbroken training.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import transformers
from accelerate import Accelerator
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from safetensors.torch import load_file, load_model, save_file, save_model
from test_objectives_contract import CLASSES, SPECS, arguments, batch, make, steps
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from selfexplain import Introspective
from selfexplain.adapters.huggingface import ObjectiveTrainer
from selfexplain.adapters.lightning import ObjectiveModule
from selfexplain.errors import InputError
from selfexplain.objectives import CSKD, DLB, Objective
from selfexplain.objectives.memory import Memory

REMEMBERING = [
    "introspective:aggregation=class,every=3,ramp_steps=4",
    "introspective:control=permuted",
    "saliency_guided",
    "cgc",
    "cs_kd",
    "dlb",
    "ps_kd",
    "ols",
    "dkd",
    "distil_part:part=permuted",
    "auxiliary+introspective:aggregation=class,every=3,ramp_steps=4",
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


def test_state_is_tensors_of_constant_shape_from_construction_on(spec: str) -> None:
    objective = make(spec)
    before = form(tensors_of(objective))
    steps(objective, 2)
    x, y, *rest = arguments(objective)
    objective(x[:5], y[:5], *(index[:5] for index in rest))["loss"].backward()  # the last batch
    assert form(tensors_of(objective)) == before
    assert form(copy.deepcopy(objective).state_dict()) == before


def test_safetensors(spec: str, tmp_path: Path) -> None:
    unbroken, first, second = make(spec), make(spec), make(spec)
    steps(unbroken, 3)
    save_file(unbroken.state_dict(), tmp_path / "file")
    save_model(unbroken, str(tmp_path / "model"))
    expected = steps(unbroken, 2, first=3)
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


class Losses(lightning.Callback, transformers.TrainerCallback):
    """Those of the training steps."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.seen.append(outputs["loss"].item())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.seen += [logs["loss"]] if "loss" in logs else []


def fit(module: lightning.LightningModule, loader: DataLoader, **options: Any) -> list[float]:
    losses = Losses()
    callbacks = [losses, *options.pop("callbacks", [])]
    path = options.pop("ckpt_path", None)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    trainer.fit(module, loader, ckpt_path=path)
    return losses.seen


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("name", REMEMBERING)
def test_lightning(name: str, averages: bool, tmp_path: Path) -> None:
    loader = DataLoader(Images(name == "ps_kd"), batch_size=10)  # the last has 4

    def callbacks() -> list[lightning.Callback]:
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
        return [save, *([EMAWeightAveraging(decay=0.5)] if averages else [])]

    def module() -> ObjectiveModule:
        return ObjectiveModule(make(name), sgd)

    expected = fit(module(), loader, max_epochs=3, callbacks=callbacks())
    path = tmp_path / "step=4.ckpt"  # in the second epoch
    resumed = fit(module(), loader, max_epochs=3, callbacks=callbacks(), ckpt_path=path)
    assert resumed == expected[4:]
    loaded = ObjectiveModule.load_from_checkpoint(path, objective=make(name))
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(v, saved[k]) for k, v in tensors_of(loaded).items())


@pytest.mark.parametrize("name", REMEMBERING)
def test_huggingface(name: str, tmp_path: Path) -> None:
    def trainer(**options: Any) -> tuple[ObjectiveTrainer, Losses]:
        losses = Losses()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=10,
            per_device_eval_batch_size=24,
            num_train_epochs=2,
            logging_steps=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        data = Images(name == "ps_kd")
        return ObjectiveTrainer(
            make(name), arguments, train_dataset=data, eval_dataset=data, callbacks=[losses]
        ), losses

    first, losses = trainer(
        save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True
    )
    first.train()
    best = load_file(Path(first.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(v, best[k]) for k, v in tensors_of(first.model).items())
    again, resumed = trainer(save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen == losses.seen[3:]


def test_accelerate(spec: str, tmp_path: Path) -> None:
    unbroken, fresh = make(spec), make(spec)
    steps(unbroken, 3)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(unbroken)
    accelerator.save_state(str(tmp_path))
    expected = steps(prepared, 2, first=3)
    other = Accelerator(cpu=True)
    resumed = other.prepare(fresh)
    other.load_state(str(tmp_path))
    assert steps(resumed, 2, first=3) == expected
