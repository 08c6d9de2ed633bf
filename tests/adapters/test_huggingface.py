"""Objectives in the real Trainer of transformers, and in a loop of Accelerate."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.adapter_objectives import Counting
from tests.helpers.later import Later
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from selfexplain import Introspective
from selfexplain.errors import InputError
from selfexplain.models import build_model
from selfexplain.objectives import Objective, Standard

accelerate, transformers = Later("accelerate"), Later("transformers")
adapter = Later("selfexplain.adapters.huggingface")


class Images(Dataset):
    """Dictionaries such as an image processor makes them."""

    def __init__(self) -> None:
        self.x = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, object]:
        return {"pixel_values": self.x[i], "labels": i % 3}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3
    )
    return adapter.Logits(transformers.ResNetForImageClassification(config))


MORE = ("compute_loss_func", "compute_metrics", "model_init")
"""What a Trainer takes beside its arguments."""


def trainer(objective: Objective | None, folder: Path, **options: object) -> Any:
    more = {name: options.pop(name) for name in MORE if name in options}
    data = options.pop("data", Images())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **{"per_device_train_batch_size": 8, **options},
    )
    return adapter.ObjectiveTrainer(
        model=objective, args=arguments, train_dataset=data, eval_dataset=data, **more
    )


def test_trains_and_evaluates(tmp_path: Path) -> None:
    objective = Introspective(resnet())
    before = [p.detach().clone() for p in objective.parameters()]
    run = trainer(objective, tmp_path)
    run.train()
    assert all(not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))
    predicted = run.predict(Images())
    with torch.no_grad():
        logits = objective.eval().model(Images().x)
    torch.testing.assert_close(torch.as_tensor(predicted.predictions), logits)
    assert predicted.label_ids.tolist() == [i % 3 for i in range(24)]
    assert run.evaluate()["eval_loss"] > 0


class Unlabelled(Images):
    def __getitem__(self, i: int) -> dict[str, object]:
        return {"pixel_values": self.x[i]}


@pytest.mark.parametrize("kind", [Introspective, Counting])
def test_predicts_without_labels(kind: type[Objective], tmp_path: Path) -> None:
    objective = kind(resnet())
    run = trainer(objective, tmp_path)
    run.train()
    predicted, labelled = run.predict(Unlabelled()), run.predict(Images())
    assert predicted.label_ids is None
    assert "test_loss" not in predicted.metrics
    assert "test_loss" in labelled.metrics
    assert (predicted.predictions == labelled.predictions).all()
    with torch.no_grad():
        logits = objective.eval().model(Images().x)
    torch.testing.assert_close(torch.as_tensor(predicted.predictions), logits)


def test_a_loss_without_labels_is_refused(tmp_path: Path) -> None:
    run = trainer(Introspective(resnet()), tmp_path, prediction_loss_only=True)
    with pytest.raises(InputError, match="pass a data set whose batches have them"):
        run.evaluate(Unlabelled())


def test_tells_epochs(tmp_path: Path) -> None:
    objective = Counting(resnet())
    trainer(objective, tmp_path).train()
    assert objective.told == [(0, 2), (1, 2)]


REFUSED = {
    "gradient_checkpointing": (True, r"call gradient_checkpointing_enable\(\) of the model"),
    "activation_checkpointing": (True, r"call gradient_checkpointing_enable\(\) of the model"),
    "label_smoothing_factor": (0.1, r"pass the objective LabelSmoothing\(model\)"),
    "torch_compile": (True, r"call compile\(\) of the model's blocks"),
    "neftune_noise_alpha": (5.0, "noise on the embeddings of tokens"),
    "use_liger_kernel": (True, "parts of language models"),
    "fsdp": ("full_shard", "start the training with torchrun"),
    "push_to_hub": (True, r"call push_to_hub\(\) of the model of transformers inside it"),
    "train_sampling_strategy": ("group_by_length", "images have no lengths"),
    "compute_loss_func": (lambda *_: 0.0, "write an objective of your own"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_when_the_trainer_is_built(name: str, tmp_path: Path) -> None:
    value, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as raised:
        trainer(Introspective(resnet()), tmp_path, **{name: value})
    if name not in {"activation_checkpointing", "train_sampling_strategy"}:  # by other names
        assert str(raised.value).startswith(name)


def test_models_that_are_no_objective_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model is a Logits; pass an objective"):
        trainer(resnet(), tmp_path)
    with pytest.raises(InputError, match="the model is a Logits; pass an objective"):
        trainer(None, tmp_path, model_init=resnet)


def test_the_hub_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    run = trainer(Introspective(resnet()), tmp_path)
    for call in (run.push_to_hub, run.create_model_card):
        with pytest.raises(InputError, match="inside it, once it is trained"):
            call()


def test_gradient_checkpointing_of_the_model_is_what_works() -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config)
    model.gradient_checkpointing_enable()
    objective = Introspective(adapter.Logits(model), kind="grad_cam")
    objective(Images().x[:4], torch.arange(4) % 3)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


class Named(Images):
    """As torchvision's and many of the hub's sets name their columns."""

    def __getitem__(self, i: int) -> dict[str, object]:
        return {"image": self.x[i], "label": i % 3, "file": "a.png"}


WORKS = {
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "bf16_full_eval": {"bf16_full_eval": True},
    "fp16_full_eval": {"fp16_full_eval": True},
    "include_for_metrics": {
        "include_for_metrics": ["inputs", "loss"],
        "compute_metrics": lambda given: {"inputs": len(given.inputs)},
    },
    "batch_eval_metrics": {
        "batch_eval_metrics": True,
        "compute_metrics": lambda given, compute_result: {"batch": len(given.predictions)},
    },
    "accumulation": {"eval_accumulation_steps": 1, "gradient_accumulation_steps": 3},
    "columns of other names": {"data": Named()},
    "label_names": {"data": Named(), "label_names": ["label"]},
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works_gives_the_scores_that_it_should(name: str, tmp_path: Path) -> None:
    run = trainer(Introspective(resnet()), tmp_path, max_steps=1, **WORKS[name])
    run.train()
    scores = run.evaluate()
    data = WORKS[name].get("data", Images())
    predicted = run.predict(data)
    assert predicted.predictions.shape == (24, 3)
    assert scores["eval_loss"] == pytest.approx(predicted.metrics["test_loss"])
    if name == "include_for_metrics":
        assert scores["eval_inputs"] == 24


def test_accumulated_steps_are_the_mean_of_their_batches(tmp_path: Path) -> None:
    accumulated, whole = (
        trainer(
            Standard(resnet().eval()),
            tmp_path,
            max_steps=1,
            gradient_accumulation_steps=steps,
            per_device_train_batch_size=24 // steps,
            optim="sgd",
        )
        for steps in (3, 1)
    )
    for run in (accumulated, whole):
        for module in run.model.modules():  # whose statistics are those of a batch
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum, module.training = 0.0, False
                module.train = lambda mode=True, module=module: module
        run.train()
    for a, b in zip(accumulated.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_search_builds_its_objectives_anew(tmp_path: Path) -> None:
    made: list[Counting] = []

    def model_init() -> Counting:
        made.append(Counting(resnet()))
        return made[-1]

    run = trainer(None, tmp_path, model_init=model_init, max_steps=1)
    run.train()
    assert run.model is made[-1]
    assert made[-1].told == [(0, 1)]  # and not one that was made before


def test_accelerate_needs_no_adapter() -> None:
    torch.manual_seed(0)
    objective = Introspective(build_model("small_cnn", num_classes=3, in_channels=1))
    data = TensorDataset(torch.randn(24, 1, 8, 8), torch.arange(24) % 3)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    accelerator = accelerate.Accelerator(cpu=True)
    objective, optimizer, loader = accelerator.prepare(
        objective, optimizer, DataLoader(data, batch_size=8)
    )
    losses = []
    for _ in range(8):
        for x, y in loader:
            out = objective(x, y)
            optimizer.zero_grad()
            accelerator.backward(out["loss"])
            optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
