"""Objectives in the real Trainer of transformers, and in a loop of Accelerate."""

from pathlib import Path

import pytest
import torch
import transformers
from accelerate import Accelerator
from adapter_objectives import Counting
from torch.utils.data import DataLoader, Dataset, TensorDataset

from selfexplain import Introspective
from selfexplain.adapters.huggingface import Logits, ObjectiveTrainer
from selfexplain.errors import InputError
from selfexplain.models import build_model
from selfexplain.objectives import Objective


class Images(Dataset):
    """Dictionaries such as an image processor makes them."""

    def __init__(self) -> None:
        self.x = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, object]:
        return {"pixel_values": self.x[i], "labels": i % 3}


def resnet() -> Logits:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
    )
    return Logits(transformers.ResNetForImageClassification(config))


def trainer(objective: Objective, folder: Path, **options: object) -> ObjectiveTrainer:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        **options,
    )
    return ObjectiveTrainer(
        model=objective, args=arguments, train_dataset=Images(), eval_dataset=Images()
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


def test_accelerate_needs_no_adapter() -> None:
    torch.manual_seed(0)
    objective = Introspective(build_model("small_cnn", num_classes=3, in_channels=1))
    data = TensorDataset(torch.randn(24, 1, 8, 8), torch.arange(24) % 3)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.05)
    accelerator = Accelerator(cpu=True)
    objective, optimiser, loader = accelerator.prepare(
        objective, optimiser, DataLoader(data, batch_size=8)
    )
    losses = []
    for _ in range(8):
        for x, y in loader:
            out = objective(x, y)
            optimiser.zero_grad()
            accelerator.backward(out["loss"])
            optimiser.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
