"""Five loops, one product: what each leaves is read by report, app, explain and export.

Each is interrupted after its first epoch and goes on with objects made anew, from what its library
has saved.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.later import Later
from tests.helpers.recorded import MEAN, STD, Images, Tiny, of_transformers
from torch import nn
from torch.utils.data import DataLoader

from selfexplain import InputError, Introspective, Recorder, from_pretrained
from selfexplain.app.explain import Explainer
from selfexplain.app.viewer import read_examples
from selfexplain.experiments.explain.explain import explain_images
from selfexplain.experiments.export import export_run
from selfexplain.experiments.reading_options import ExplainConfig, ExportConfig, ReportConfig
from selfexplain.experiments.report import write_report
from selfexplain.training.log import EpochLog

EPOCHS = 2
HOW: dict[str, Any] = {"mean": MEAN, "std": STD, "class_names": ["cat", "dog", "newt"]}
TINY = "tests.helpers.recorded:tiny"

accelerate, transformers = Later("accelerate"), Later("transformers")
lightning = Later("lightning")
callbacks = Later("lightning.pytorch.callbacks")
timm = Later("timm")
of_accelerate = Later("selfexplain.adapters.accelerate")
of_huggingface = Later("selfexplain.adapters.huggingface")
of_lightning = Later("selfexplain.adapters.lightning")
of_timm = Later("selfexplain.adapters.timm")


class InterruptedLoopError(Exception):
    """The power fails."""


def made(factory: Callable[[], nn.Module], **options: object) -> Introspective:
    """An objective around a new model, whose start does not matter to a run that goes on."""
    return Introspective(factory(), **options)


def loop(
    recorder: Recorder, objective: Any, optimizer: Any, backward: Any, stop: bool, data: Any
) -> None:
    with recorder:
        for epoch in range(recorder.epochs_done, EPOCHS):
            if stop and epoch:
                raise InterruptedLoopError
            for x, y in data:
                out = objective(x, y)
                optimizer.zero_grad()
                backward(out["loss"])
                optimizer.step()
            recorder.epoch({"loss": out["loss"], "epoch": epoch})


def own_loop(folder: Path, stop: bool) -> nn.Module:
    objective = made(lambda: Tiny(3, 3))
    optimizer = torch.optim.AdamW(objective.parameters())
    data = DataLoader(Images(), batch_size=6)
    recorder = Recorder(
        folder,
        objective.model,
        objective=objective,
        data=data,
        epochs=EPOCHS,
        factory=TINY,
        state={"optimizer": optimizer},
        **HOW,
    )
    loop(recorder, objective, optimizer, torch.Tensor.backward, stop, data)
    return objective.model


def with_accelerate(folder: Path, stop: bool) -> nn.Module:
    whole = accelerate.Accelerator(cpu=True)
    objective = made(lambda: Tiny(3, 3))
    optimizer = torch.optim.AdamW(objective.parameters())
    prepared, optimizer, data = whole.prepare(
        objective, optimizer, DataLoader(Images(), batch_size=6)
    )
    recorder = of_accelerate.recorder_of(
        whole,
        prepared,
        folder,
        data=DataLoader(Images(), batch_size=6),
        epochs=EPOCHS,
        factory=TINY,
        state={"optimizer": optimizer},
        **HOW,
    )
    loop(recorder, prepared, optimizer, whole.backward, stop, data)
    whole.save_model(objective.model, folder.parent / "accelerate")
    loaded = Tiny(3, 3)
    accelerate.utils.load_checkpoint_in_model(loaded, folder.parent / "accelerate")
    return loaded


def with_lightning(folder: Path, stop: bool) -> nn.Module:
    class Stops(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if stop and trainer.current_epoch:
                raise InterruptedLoopError

    def module() -> Any:
        return of_lightning.ObjectiveModule(made(lambda: Tiny(3, 3)))

    data = DataLoader(Images(), batch_size=6)
    recorder = of_lightning.RecordRun(folder, data=data, factory=TINY, **HOW)
    kept = folder.parent / "lightning"
    saver = callbacks.ModelCheckpoint(kept, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        callbacks=[recorder, Stops(), saver],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.parent,
    )
    before = None if stop else kept / "epoch=0.ckpt"
    trainer.fit(module(), data, data, ckpt_path=before)
    last = saver.best_model_path
    loaded: nn.Module = of_lightning.ObjectiveModule.load_from_checkpoint(
        last, objective=made(lambda: Tiny(3, 3))
    ).objective.model
    return loaded


def with_trainer(folder: Path, stop: bool) -> nn.Module:
    class Stops(transformers.TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stop and state.epoch:
                raise InterruptedLoopError

    objective = made(lambda: of_transformers(3, 3))
    kept = folder.parent / "trainer"
    recorder = of_huggingface.RecordRun(
        folder, data=Images(named=True), factory="tests.helpers.recorded:of_transformers", **HOW
    )
    trainer = of_huggingface.ObjectiveTrainer(
        model=objective,
        args=transformers.TrainingArguments(
            output_dir=str(kept),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=6,
            use_cpu=True,
            report_to=[],
            save_strategy="epoch",
            eval_strategy="epoch",
            logging_strategy="epoch",
            disable_tqdm=True,
        ),
        train_dataset=Images(named=True),
        eval_dataset=Images(named=True),
        callbacks=[recorder, Stops()],
    )
    trainer.train(resume_from_checkpoint=not stop)
    trainer.save_model()
    from safetensors.torch import load_file

    loaded = made(lambda: of_transformers(3, 3))
    loaded.load_state_dict(load_file(kept / "model.safetensors"))
    return loaded.model


def with_timm(folder: Path, stop: bool) -> nn.Module:
    task = of_timm.ObjectiveTask(made(lambda: timm.create_model("test_resnet", num_classes=3)))
    data = DataLoader(Images(), batch_size=6)
    optimizer = torch.optim.AdamW(task.parameters())
    recorder = of_timm.recorder_of(
        task, folder, data=data, epochs=EPOCHS, state={"optimizer": optimizer}, **HOW
    )
    loop(recorder, task, optimizer, torch.Tensor.backward, stop, data)
    path = folder.parent / "timm.pt"
    torch.save(task.get_eval_model().state_dict(), path)
    return timm.create_model("test_resnet", num_classes=3, checkpoint_path=path)


WAYS: dict[str, Callable[[Path, bool], nn.Module]] = {
    "own loop": own_loop,
    "accelerate": with_accelerate,
    "lightning": with_lightning,
    "trainer": with_trainer,
    "timm": with_timm,
}


@pytest.mark.parametrize("way", WAYS)
def test_five_loops_end_in_report_app_explain_and_export(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with pytest.raises(InterruptedLoopError) as kept:
        WAYS[way](folder, True)
    assert kept.tb is not None  # which keeps everything alive that the loop had, as a notebook does
    assert [line["epoch"] for line in EpochLog(folder).read()] == [1]
    loaded = WAYS[way](folder, False).eval()

    lines = EpochLog(folder).read()
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all("loss" in line for line in lines)
    result = json.loads((folder / "result.json").read_text())
    assert (result["objective"], result["epochs"]) == ("introspective", EPOCHS)
    if way in {"lightning", "trainer"}:
        assert result["step_seconds"] > 0
        assert any(name.startswith(("val_", "eval_")) for name in lines[1])

    page = write_report(ReportConfig(dirs=(folder,))).read_text()
    for title in ("Results", "Learning curves", "Reliability", "What the model explains"):
        assert title in page

    images = Images()
    explainer = Explainer(folder)
    pixels = images.pixels_NCHW[0]
    shown = explainer.explain(pixels, "cam")
    assert shown.own
    with torch.no_grad():
        logits = loaded(images.x_NCHW)
    torch.testing.assert_close(shown.probability_K, logits[0].softmax(0), atol=1e-5, rtol=1e-4)
    examples = read_examples(folder, explainer.class_names)
    assert [each.class_name for each in examples] == ["cat", "dog", "newt"]

    photograph = tmp_path / "a.png"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(photograph)
    out = tmp_path / "maps.png"
    assert explain_images(ExplainConfig(run=(folder,), images=(photograph,), out=out)).axes

    export_run(ExportConfig(run=folder, out=tmp_path / "export"))
    card = (tmp_path / "export" / "README.md").read_text()
    assert "Scores on the evaluation images of its own loop, one seed (0):" in card
    classifier = from_pretrained(tmp_path / "export")
    with torch.no_grad():
        exported = classifier(images.pixels_NCHW / 255)
    torch.testing.assert_close(exported, logits, atol=1e-5, rtol=1e-4)


class Plain(nn.Module):
    """A model that gives no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny(3, 3)

    def forward(self, x: torch.Tensor, labels: object = None) -> dict[str, torch.Tensor]:
        return {"scores": self.net(x)}


def in_lightning(model: nn.Module, folder: Path) -> None:
    class Own(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: torch.Tensor) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            raise AssertionError("the model is refused before")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = DataLoader(Images(), batch_size=6)
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[of_lightning.RecordRun(folder, data=data, **HOW)],
    ).fit(Own(), data)


def in_trainer(model: nn.Module, folder: Path) -> None:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder.parent), use_cpu=True, report_to=[], disable_tqdm=True
    )
    recorder = of_huggingface.RecordRun(folder, data=Images(named=True), **HOW)
    transformers.Trainer(
        model=model, args=arguments, train_dataset=Images(named=True), callbacks=[recorder]
    ).train()


def in_accelerate(model: nn.Module, folder: Path) -> None:
    whole = accelerate.Accelerator(cpu=True)
    of_accelerate.recorder_of(whole, whole.prepare(model), folder, data=Images(), **HOW)


def in_timm(model: nn.Module, folder: Path) -> None:
    of_timm.recorder_of(model, folder, data=Images(), **HOW)


@pytest.mark.parametrize("way", [in_lightning, in_trainer, in_accelerate, in_timm])
def test_a_model_without_logits_is_refused_before_it_is_trained(
    way: Callable[[nn.Module, Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    with pytest.raises(InputError, match=r"returns a dict; it must return one tensor of logits"):
        way(Plain(), folder)
    assert not folder.exists()


def test_a_classifier_of_transformers_is_told_how_it_gives_logits(tmp_path: Path) -> None:
    model = of_transformers(3, 3).model
    with pytest.raises(InputError, match=r"of logits \(B, K\), which Logits\(model\) does$"):
        in_trainer(model, tmp_path / "mine")


def test_examples_of_the_adapters() -> None:
    """Here, as doctest's own collection would import Accelerate in every worker (conftest.py)."""
    import doctest

    import selfexplain.adapters.accelerate as module

    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
