"""Objectives in the real Lightning."""

import doctest
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.adapter_objectives import Counting
from tests.helpers.later import Later
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from selfexplain import Introspective
from selfexplain.errors import InputError
from selfexplain.models import build_model
from selfexplain.objectives import PSKD, LabelSmoothing, Mixup, Objective, Standard
from selfexplain.training.optimizers import MuonAdamW
from selfexplain.training.options import OptimizerName

lightning = Later("lightning")
callbacks = Later("lightning.pytorch.callbacks")
adapter = Later("selfexplain.adapters.lightning")


def batches(seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(24) % 3), batch_size=8)


def make(objective: type[Objective]) -> Objective:
    torch.manual_seed(0)
    return objective(build_model("small_cnn", num_classes=3, in_channels=1))


def trainer(**options: object) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_equals_a_plain_loop() -> None:
    plain, module = make(Introspective), adapter.ObjectiveModule(make(Introspective))
    trainer(max_epochs=2).fit(module, batches())
    optimizer = module.make_optimizer(plain.parameters())
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            plain(x, y)["loss"].backward()
            optimizer.step()
    theirs = module.objective.state_dict()
    for name, value in plain.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(theirs[name], value, msg=name)


def test_logs_terms_and_validation_scores_and_tells_epochs() -> None:
    module = adapter.ObjectiveModule(make(Counting))
    run = trainer(max_epochs=2)
    run.fit(module, batches(), batches(1))
    assert {"loss", "val_nll", "val_accuracy"} <= set(run.logged_metrics)
    assert module.objective.told == [(0, 2), (1, 2)]


@functools.cache
def own() -> Any:
    class Own(lightning.LightningModule):
        """A user's module with an objective inside."""

        def __init__(self, objective: Objective) -> None:
            super().__init__()
            self.inner = objective

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return self.inner(*batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Own


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 9, "max_epochs": -1}])
def test_callback_tells_the_objectives_of_a_users_module(limits: dict[str, int]) -> None:
    module = own()(make(Counting))
    trainer(callbacks=[adapter.TellEpochs()], **limits).fit(module, batches())
    assert [epoch for epoch, _ in module.inner.told] == [0, 1, 2]
    assert all(epoch < epochs for epoch, epochs in module.inner.told)


def given(data: list[Any]) -> DataLoader:
    """A loader of these batches; Lightning takes a list for one of loaders."""
    return DataLoader(data, batch_size=None)


FORMS = {
    "pair": lambda x, y: (x, y),
    "list and more": lambda x, y: [x, y, "a name", {"of": "more"}],
    "pixel_values": lambda x, y: {"pixel_values": x, "labels": y},
    "image": lambda x, y: {"image": x, "label": y, "path": "a.png"},
    "images": lambda x, y: {"images": x, "labels": y},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_call_takes_every_form_of_batch(form: str) -> None:
    module, run = adapter.ObjectiveModule(make(Introspective)), trainer(max_epochs=1)
    data = given([FORMS[form](x, y) for x, y in batches()])
    run.fit(module, data, data)
    validated = run.validate(module, data, verbose=False)[0]
    tested = run.test(module, data, verbose=False)[0]
    assert tested["test_nll"] == pytest.approx(validated["val_nll"])
    assert tested["test_accuracy"] == validated["val_accuracy"]
    predicted = torch.cat(run.predict(module, data))
    with torch.no_grad():
        expected = module.eval()(torch.cat([x for x, _ in batches()]))
    torch.testing.assert_close(predicted, expected)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: [x], lambda x: {"pixel_values": x}])
def test_predicts_without_labels_and_refuses_to_score(form: Any) -> None:
    module, run = adapter.ObjectiveModule(make(Introspective)), trainer(max_epochs=1)
    data = given([form(x) for x, _ in batches()])
    assert torch.cat(run.predict(module, data)).shape == (24, 3)
    with pytest.raises(InputError, match="a loss needs labels"):
        run.test(module, data, verbose=False)


def test_a_batch_without_images_is_refused() -> None:
    module, run = adapter.ObjectiveModule(make(Introspective)), trainer(max_epochs=1)
    for data, message in (
        ([{"text": torch.zeros(2)}], "dict with the keys text; pass images and labels"),
        ([["a.png"]], "list with no images first"),
    ):
        with pytest.raises(InputError, match=message):
            run.predict(module, given(data))
    ps_kd = PSKD(make(Introspective).model, num_images=24, num_classes=3)
    with pytest.raises(InputError, match="place in the training set; pass batches with a third"):
        trainer(max_epochs=1).fit(adapter.ObjectiveModule(ps_kd), batches())


def test_soft_labels_are_scored_by_their_likeliest_class() -> None:
    module, run = adapter.ObjectiveModule(make(LabelSmoothing)), trainer(max_epochs=1)
    soft = given([(x, torch.nn.functional.one_hot(y, 3).float()) for x, y in batches()])
    a, b = (run.validate(module, data, verbose=False)[0] for data in (soft, batches()))
    assert a == pytest.approx(b)


def test_loading_needs_an_objective_and_says_so(tmp_path: Path) -> None:
    run, module = trainer(max_epochs=1), adapter.ObjectiveModule(make(Introspective))
    run.fit(module, batches())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"pass objective=.*, built as for the training"):
        adapter.ObjectiveModule.load_from_checkpoint(tmp_path / "a.ckpt")
    loaded = adapter.ObjectiveModule.load_from_checkpoint(
        tmp_path / "a.ckpt", objective=make(Introspective)
    )
    x, _ = next(iter(batches()))
    assert torch.equal(loaded.eval()(x), module.eval()(x))
    assert loaded.objective.steps == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_epoch_that_goes_on_is_told_of(tmp_path: Path) -> None:
    save = callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    shared = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    for kind in (adapter.ObjectiveModule, own()):
        module, resumed = kind(make(Counting)), kind(make(Counting))
        used = [save, *([adapter.TellEpochs()] if kind is own() else [])]
        for each, path in ((module, None), (resumed, tmp_path / "step=4.ckpt")):
            run = lightning.Trainer(max_epochs=3, callbacks=used, **shared)
            run.fit(each, batches(), ckpt_path=path)
        told = (resumed.inner if kind is own() else resumed.objective).told
        assert told == [(1, 3), (2, 3)]  # the checkpoint is from within the second epoch
        (tmp_path / "step=4.ckpt").unlink()


def test_an_objective_inside_another_is_told_once() -> None:
    inner = make(Counting)
    module = own()(Mixup(inner, num_classes=3))
    trainer(callbacks=[adapter.TellEpochs()], max_epochs=2).fit(module, batches())
    assert inner.told == [(0, 2), (1, 2)]


def test_the_default_optimizer_trains_a_network_without_normalisation() -> None:
    """At ten times its learning rate, with no schedule, this network does not learn."""

    def last_loss(factor: float) -> float:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = [torch.nn.Flatten()]
        for inputs, outputs in ((64, 256), (256, 256), (256, 3)):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
            torch.nn.init.kaiming_normal_(layers[-2].weight)
        module = adapter.ObjectiveModule(Standard(torch.nn.Sequential(*layers[:-1])))
        optimizer = module.configure_optimizers()
        optimizer.param_groups[0]["lr"] *= factor
        for _ in range(10):
            for x, y in batches():
                optimizer.zero_grad()
                loss = module.objective(4 * x, y)["loss"]
                loss.backward()
                optimizer.step()
        return loss.item()

    assert last_loss(1) < 0.2
    assert not last_loss(10) < 1.0


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.01), ("adamw", 1e-3), ("muon", 1e-3)])
def test_an_optimizer_may_be_named(name: OptimizerName, lr: float) -> None:
    module = adapter.ObjectiveModule(Standard(nn.Linear(2, 3)), name)
    optimizer = module.configure_optimizers()
    expected = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "muon": MuonAdamW}[name]
    assert type(optimizer) is expected
    assert optimizer.param_groups[0]["lr"] == lr
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in moved} == {id(p) for p in module.parameters()}


def test_an_optimizer_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no optimizer 'lion'; pass sgd, adamw or muon"):
        adapter.ObjectiveModule(Standard(nn.Linear(2, 3)), "lion")  # type: ignore[arg-type]


def test_examples() -> None:
    """Here, as doctest's own collection would import Lightning in every worker (conftest.py)."""
    import selfexplain.adapters.lightning as module

    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
