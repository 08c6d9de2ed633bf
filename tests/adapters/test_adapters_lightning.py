"""Objectives in the real Lightning."""

import lightning
import pytest
import torch
from adapter_objectives import Counting
from torch.utils.data import DataLoader, TensorDataset

from selfexplain import Introspective
from selfexplain.adapters.lightning import ObjectiveModule, TellEpochs
from selfexplain.models import build_model
from selfexplain.objectives import Objective


def batches(seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(24) % 3), batch_size=8)


def make(objective: type[Objective]) -> Objective:
    torch.manual_seed(0)
    return objective(build_model("small_cnn", num_classes=3, in_channels=1))


def trainer(**options: object) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_equals_a_plain_loop() -> None:
    plain, module = make(Introspective), ObjectiveModule(make(Introspective))
    trainer(max_epochs=2).fit(module, batches())
    optimiser = module.make_optimiser(plain.parameters())
    for _ in range(2):
        for x, y in batches():
            optimiser.zero_grad()
            plain(x, y)["loss"].backward()
            optimiser.step()
    theirs = module.objective.state_dict()
    for name, value in plain.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(theirs[name], value, msg=name)


def test_logs_terms_and_validation_scores_and_tells_epochs() -> None:
    module = ObjectiveModule(make(Counting))
    run = trainer(max_epochs=2)
    run.fit(module, batches(), batches(1))
    assert {"loss", "val_nll", "val_accuracy"} <= set(run.logged_metrics)
    assert module.objective.told == [(0, 2), (1, 2)]


class Own(lightning.LightningModule):
    """A user's module with an objective inside."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.inner = objective

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.inner(*batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 9, "max_epochs": -1}])
def test_callback_tells_the_objectives_of_a_users_module(limits: dict[str, int]) -> None:
    module = Own(make(Counting))
    trainer(callbacks=[TellEpochs()], **limits).fit(module, batches())
    assert [epoch for epoch, _ in module.inner.told] == [0, 1, 2]
    assert all(epoch < epochs for epoch, epochs in module.inner.told)
