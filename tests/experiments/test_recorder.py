"""The recorder: the same folder as `train` writes, nothing of the user's touched, nothing lost."""

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.command_line import DIGITS, refused
from tests.helpers.recorded import MEAN, SIZE, STD, Images, Tiny
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from selfexplain import InputError, Introspective, Recorder
from selfexplain.errors import WriteError
from selfexplain.experiments.explain.evaluate import scored_images
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit import recorder as fit_recorder
from selfexplain.experiments.fit.recorded import images_from, name_of_model, spec_of
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.report import read_record, run_sections
from selfexplain.experiments.run_dir import read_finished
from selfexplain.files import cannot_write
from selfexplain.introspection import OwnMass
from selfexplain.models import build_model
from selfexplain.objectives import LabelSmoothing, Mixup, Objective, Standard
from selfexplain.report.sections import plain_summary
from selfexplain.training.log import EpochLog

TINY = "tests.helpers.recorded:tiny"
HOW: dict[str, Any] = {
    "factory": TINY,
    "mean": MEAN,
    "std": STD,
    "class_names": ["cat", "dog", "newt"],
}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = Images()
    return [(images.x_NCHW, torch.arange(12) % 3)]


def recorder(folder: Path, model: nn.Module | None = None, **options: Any) -> Recorder:
    return Recorder(
        folder, Tiny(3, 3) if model is None else model, **{"data": batches(), **HOW, **options}
    )


def recorded(folder: Path, epochs: int = 1, **options: Any) -> Recorder:
    """A finished run."""
    with recorder(folder, epochs=epochs, **options) as found:
        for epoch in range(found.epochs_done, epochs):
            found.epoch({"loss": 1 / (epoch + 1)})
    return found


def test_what_it_writes_is_what_a_training_writes(trained: Path, tmp_path: Path) -> None:
    """Of the same weights and images: the same files with the same numbers."""
    run = load_run(trained)
    saved = json.loads((trained / "run.json").read_text())
    data = DataOptions(**saved["config"]["data"])
    folder = tmp_path / "mine"
    with Recorder(
        folder, run.objective.model, objective=run.objective, data=data, epochs=2
    ) as found:
        for line in EpochLog(trained).read():
            found.epoch(line)
    theirs = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    ours = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert ours == theirs
    for name in ("predictions", "similarity", "model", "album/images", "album/epoch-0002"):
        mine, other = (load_file(each / f"{name}.safetensors") for each in (folder, trained))
        assert mine.keys() == other.keys()
        for key, value in other.items():
            torch.testing.assert_close(mine[key], value, msg=f"{name} {key}")
    result = json.loads((trained / "result.json").read_text())
    assert found.result is not None
    assert {k: found.result[k] for k in ("accuracy", "nll", "ece", "step_seconds")} == {
        k: result[k] for k in ("accuracy", "nll", "ece", "step_seconds")
    }
    record = json.loads((folder / "run.json").read_text())
    assert record["images"] == saved["images"]
    assert record["config"]["options"] == saved["config"]["options"]
    assert record["config"]["model"] == "small_cnn"
    assert EpochLog(folder).read() == EpochLog(trained).read()
    assert len(scored_images(folder, load_run(folder), 5, seed=0).labels_N) == 5


def loop(objective: Objective, found: Recorder | None) -> None:
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in batches():
            out = objective(x + 0.1 * torch.randn_like(x), y)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
        if found is not None:
            found.epoch({"loss": out["loss"]})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Introspective, LabelSmoothing])
def test_a_training_is_the_same_with_and_without(
    kind: type[Objective], training: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = kind(Tiny(3, 3)).train(training)
    watched = copy.deepcopy(plain)
    torch.manual_seed(1)
    loop(plain, None)
    torch.manual_seed(1)
    data = DataLoader(Images(), batch_size=5, shuffle=True)
    options = {"objective": watched, "epochs": 2, "data": data}
    with recorder(tmp_path / "mine", watched.model, **options) as found:
        loop(watched, found)
    after = torch.random.get_rng_state()
    torch.manual_seed(1)
    loop(copy.deepcopy(plain), None)
    assert torch.equal(torch.random.get_rng_state(), after)
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    for mine, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
    assert all(module.training == training for module in watched.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())


def test_an_interrupted_loop_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def go(folder: Path, until: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(2)
        objective = Introspective(Tiny(3, 3), num_classes=3, aggregation="class")
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
        average = AveragedModel(objective.model, use_buffers=True)
        found = recorder(
            folder,
            objective.model,
            objective=objective,
            evaluated=average.module,
            epochs=3,
            state={"optimizer": optimizer, "average": average},
        )
        with found:
            for epoch in range(found.epochs_done, 3):
                if epoch == until:
                    raise KeyboardInterrupt
                for x, y in batches():
                    out = objective(x, y)
                    optimizer.zero_grad()
                    out["loss"].backward()
                    optimizer.step()
                average.update_parameters(objective.model)
                found.epoch({"loss": out["loss"]})
        return {**objective.state_dict(), **load_file(folder / "predictions.safetensors")}

    whole = go(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "mine", 2)
    assert not (tmp_path / "mine" / "result.json").exists()
    halves = go(tmp_path / "mine", None)
    for name, value in whole.items():
        assert torch.equal(halves[name], value), name
    lines = [EpochLog(tmp_path / name).read() for name in ("whole", "mine")]
    assert lines[0] == lines[1]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    first = recorded(folder, 2)
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    model = Tiny(3, 3)
    again = recorder(folder, model, epochs=2)
    with again:
        assert again.epochs_done == 2
        with pytest.raises(InputError, match=r"has its 2 epoch\(s\) already; pass another folder"):
            again.epoch({})
    assert again.result == first.result
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": ({"epochs": 3}, "epochs was 1, is 3"),
    "hyperparameters": ({"hyperparameters": {"lr": 0.2}}, "lr was None, is 0.2"),
    "objective": ({"objective": "focal"}, "objective was own_loss, is focal"),
    "seed": ({"seed": 4}, "seed was 0, is 4"),
    "classes": ({"class_names": ["a", "b", "c"]}, "class_names was"),
    "images": ({"data": (Images().pixels_NCHW[:6], torch.arange(6) % 3)}, "scored was 12, is 6"),
    "mean": ({"data": (Images().pixels_NCHW, torch.arange(12) % 3), "mean": None}, "mean was"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_runs_folder_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    recorded(folder)
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    change, said = OTHERS[name]
    with pytest.raises(InputError, match=said) as raised:
        recorder(folder, **{"epochs": 1, **change}).__enter__()
    assert str(raised.value).endswith("pass the arguments it was made with, or another folder")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files


def test_no_command_continues_a_recorders_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "mine")
    said = refused(
        capsys, "train", *DIGITS, "--epochs", "1", "--out", str(tmp_path / "mine"), "--resume"
    )
    assert "mine holds a run that a recorder has written; pass another --out" in said


def test_folders_of_others_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a run that no recorder has written; pass another"):
        recorder(trained).__enter__()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"is not empty but contains no run; pass another folder$"):
        recorder(tmp_path / "full").__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is a file; pass a folder$"):
        recorder(tmp_path / "file").__enter__()
    with (
        recorder(tmp_path / "mine"),
        pytest.raises(InputError, match=r"another process is writing to .*or pass another folder$"),
    ):
        recorder(tmp_path / "mine").__enter__()


def test_a_recorder_that_is_not_open_writes_nothing(tmp_path: Path) -> None:
    found = recorder(tmp_path / "mine")
    for call in (found.epoch, found.finish):
        with pytest.raises(
            InputError, match=r"is not open; write: with Recorder\(...\) as recorder:"
        ):
            call()
    assert not (tmp_path / "mine").exists()
    with found:
        with pytest.raises(InputError, match="is open already; make another one"):
            found.__enter__()
        found.epoch()
    with pytest.raises(InputError, match="is not open"):
        found.epoch()


def test_a_loop_that_is_resumed_elsewhere_leaves_no_gap(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    found = recorder(folder, epochs=4).__enter__()
    found.epoch({"loss": 3})
    found.epoch({"loss": 2})
    found.close()  # as where an exception ends the block
    with pytest.raises(InputError, match=r"holds 2 epoch\(s\) .*the training begins anew; resume"):
        recorder(folder, epochs=4, resumed_after=0).__enter__()
    with pytest.raises(InputError, match=r"holds 2 epoch\(s\) .*goes on after epoch 3; delete its"):
        recorder(folder, epochs=4, resumed_after=3).__enter__()
    with recorder(folder, epochs=4, resumed_after=1) as found:
        for loss in (7, 8, 9):
            found.epoch({"loss": loss})
    assert [line["loss"] for line in EpochLog(folder).read()] == [3, 7, 8, 9]
    with pytest.raises(InputError, match=r"holds this run already, finished after 4 epoch\(s\)"):
        recorder(folder, epochs=4, resumed_after=0).__enter__()


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"loss": "low"}, "the metric 'loss' is a str"),
        ({"loss": torch.zeros(2)}, "the metric 'loss' is a Tensor"),
        ({"loss": None}, "the metric 'loss' is a NoneType"),
        ({"sha256": 1.0}, "a metric is called 'sha256'"),
        ({3: 1.0}, "a metric is called '3'"),
        ({f"a{i}": 1.0 for i in range(300)}, "an epoch has 300 metrics"),
    ],
)
def test_metrics_that_are_no_numbers_are_refused(
    metrics: dict[Any, Any], said: str, tmp_path: Path
) -> None:
    with recorder(tmp_path / "mine") as found:
        with pytest.raises(InputError, match=said):
            found.epoch(metrics)
        found.epoch({"loss": torch.tensor(float("nan")), "epoch": 7})
    assert found.epochs_done == 1


FORMS: dict[str, Callable[[], Any]] = {
    "loader": lambda: DataLoader(Images(), batch_size=5),
    "data set": Images,
    "dictionaries": lambda: Images(named=True),
    "batches": batches,
    "pair of tensors": lambda: batches()[0],
    "pixels": lambda: (Images().pixels_NCHW, torch.arange(12) % 3),
    "soft labels": lambda: [(batches()[0][0], torch.eye(3)[torch.arange(12) % 3])],
    "labels in a column": lambda: [(batches()[0][0], (torch.arange(12) % 3)[:, None])],
    "one dictionary": lambda: {"image": batches()[0][0], "label": batches()[0][1]},
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_are_the_same_pixels(form: str) -> None:
    images, mean_C, std_C = images_from(FORMS[form](), mean=MEAN, std=STD)
    assert torch.equal(images.images_NCHW, Images().pixels_NCHW)
    assert images.labels_N.tolist() == [i % 3 for i in range(12)]
    torch.testing.assert_close(mean_C, torch.tensor(MEAN))
    torch.testing.assert_close(std_C, torch.tensor(STD))


class Undecoded(Images):
    """As torchvision's data sets are without a transform."""

    def __getitem__(self, i: int) -> object:
        return Image.new("RGB", (SIZE, SIZE)), 0


IMAGES: list[tuple[dict[str, Any], str]] = [
    ({"mean": None}, r"go from .* must lie in \[0, 1\]; pass the mean= and std="),
    ({"std": [1.0, 1.0, 1.0]}, r"must lie in \[0, 1\]"),
    ({"mean": [0.5, 0.5]}, "mean is .* for images of 3 channel"),
    ({"std": [0.0]}, "std is .*; pass numbers above 0"),
    ({"data": []}, "there are no evaluation images"),
    ({"data": 3}, "data is a int; pass the name of a data set"),
    ({"data": Undecoded()}, r"cannot be read \(TypeError: .*PIL.*pass batches of tensors"),
    ({"data": [(batches()[0][0], torch.zeros(7))]}, r"labels of 12 .* of shape \(7,\); pass one"),
    ({"data": "digit", "class_names": None}, "the data 'digit' is unknown"),
    ({"data": [batches()[0][0]]}, "a loss needs labels"),
    ({"data": [(torch.zeros(2, 4, 8, 8), torch.zeros(2))]}, "grey with C = 1"),
    ({"data": [(torch.zeros(2, 3, 8), torch.zeros(2))]}, "a batch of shape"),
    ({"data": (Images().pixels_NCHW, torch.arange(12))}, "label 11 .* outside the 3 classes"),
    ({"class_names": ["a", "b", "c", "d"]}, "returns shape .* for 2 images of 4 classes"),
    ({"data": "digits"}, "name their classes; leave out class_names"),
    ({"epochs": 0}, "epochs is 0"),
    ({"epochs": 2.5}, "epochs is 2.5"),
    ({"objective": Standard(Tiny(3, 3))}, "objective is of another model"),
    ({"objective": nn.CrossEntropyLoss()}, "objective is a CrossEntropyLoss"),
    ({"objective": "introspective"}, "pass the objective itself"),
    ({"objective": "label-smoothing"}, "there is no objective"),
    ({"factory": "tests.helpers.recorded:tini"}, r"did you mean tests.helpers.recorded:tiny\?"),
    (
        {"factory": "tests.helpers.recorded:wider"},
        r"of another shape: head.weight \(3, 4\) in place of \(4, 4\), head.bias .*pass factory=",
    ),
    ({"factory": "small_cnn"}, r"missing: block1.0.weight, .*unknown: features.0.weight"),
    ({"factory": None}, "to build the Tiny again, and it is not known how; pass factory="),
    ({"hyperparameters": {"lr": {1, 2}}, "state": {"a": Tiny(3, 3)}}, ""),
]


@pytest.mark.parametrize(("change", "said"), IMAGES)
def test_what_cannot_be_recorded_is_said_before_anything_is_written(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if not said:  # what can
        recorder(tmp_path / "mine", **change)
        return
    with pytest.raises(InputError, match=said) as raised:
        recorder(tmp_path / "mine", **change)
    assert "--" not in str(raised.value)
    assert not (tmp_path / "mine").exists()


class Unsafe:
    def state_dict(self) -> dict[str, Any]:
        return {"schedule": lambda step: step}

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError("nothing was saved")


def test_a_state_that_a_checkpoint_cannot_give_back_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="state holds what a checkpoint cannot"),
        recorder(tmp_path / "mine", state={"schedule": Unsafe()}) as found,
    ):
        found.epoch({})


def test_logits_that_are_not_finite_have_no_scores_and_lose_nothing(tmp_path: Path) -> None:
    model = Tiny(3, 3)
    found = recorder(tmp_path / "mine", model, epochs=2).__enter__()
    found.epoch({"loss": 1.0})
    nn.init.constant_(model.head.bias, torch.inf)
    with pytest.raises(InputError, match="logits are not finite after epoch 1"):
        found.__exit__(None, None, None)
    assert [line["epoch"] for line in EpochLog(tmp_path / "mine").read()] == [1]
    assert not (tmp_path / "mine" / "result.json").exists()


class Outer(Standard):
    """An objective of the user's own."""


def test_a_full_disk_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, state: Any) -> None:
        raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))

    found = recorder(tmp_path / "mine", epochs=3).__enter__()
    found.epoch()
    monkeypatch.setattr(fit_recorder, "save_checkpoint", full)
    with pytest.raises(WriteError) as raised:
        found.epoch()
    found.__exit__(WriteError, raised.value, None)
    said = str(raised.value)
    assert (
        "make room on that disk, or pass another folder; the checkpoint of epoch 1 is kept" in said
    )
    assert said.endswith("and the same recorder goes on from it")
    monkeypatch.undo()
    with recorder(tmp_path / "mine", epochs=3) as again:
        assert again.epochs_done == 1
        again.epoch()


class Local(nn.Module):
    """Called as factories are."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.net = Tiny(num_classes, in_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits


def test_names_of_models_are_found() -> None:
    for name in ("small_cnn", "resnet20", "efficientnet_lite1"):
        model = build_model(name, num_classes=4, in_channels=3)
        assert name_of_model(model, None, num_classes=4, in_channels=3) == name
    found = name_of_model(Local(4, 3), None, num_classes=4, in_channels=3)
    assert found == f"{Local.__module__}:Local"
    with pytest.raises(InputError, match="to build the Linear again"):
        name_of_model(nn.Linear(3, 4), None, num_classes=4, in_channels=3)


def test_what_is_minimised_is_said_as_on_the_command_line(tmp_path: Path) -> None:
    model = Tiny(3, 3)
    mixed = Mixup(LabelSmoothing(model, smoothing=0.2), num_classes=3, alpha=0.4)
    spec, options = spec_of(mixed)
    assert spec == "mixup+label_smoothing"
    assert options["mixup"]["alpha"] == 0.4
    assert options["label_smoothing"]["smoothing"] == 0.2
    averaged = OwnMass(model, kappa=2.0, cap=0.3, kind="grad_cam", num_classes=3, num_images=12)
    own_mass = spec_of(averaged)[1]["own_mass"]
    told = {"kappa": 2.0, "cap": 0.3, "kind": "grad_cam"}
    assert own_mass.items() >= told.items()
    assert "mass_from" not in own_mass  # of which the objective keeps nothing
    assert spec_of("mixup+standard") == ("mixup+standard", {})

    class Focal(Standard):
        """One of the user's own."""

    assert spec_of(Focal(model))[0] == "Focal"
    assert spec_of(Outer(model))[0] == f"{Outer.__module__}:Outer"
    for folder, objective in (("mixed", mixed), ("own", Focal(model)), ("word", "focal")):
        recorded(tmp_path / folder, model=model, objective=objective)
        run = load_run(tmp_path / folder)
        assert all(
            torch.equal(value, run.objective.model.state_dict()[name])
            for name, value in model.state_dict().items()
        )
        assert read_record(tmp_path / folder).objective == spec_of(objective)[0]


def test_what_a_record_says_of_images_is_what_readers_need(tmp_path: Path) -> None:
    recorded(tmp_path / "mine", 2, hyperparameters={"lr": 0.1, "batch_size": 12})
    run = read_finished(tmp_path / "mine")
    assert (run.class_names, run.shape_CHW) == (("cat", "dog", "newt"), (3, SIZE, SIZE))
    assert run.config["hyperparameters"] == {"lr": 0.1, "batch_size": 12}
    with pytest.raises(InputError, match=r"are not kept: .* record it with the name of a data set"):
        scored_images(tmp_path / "mine", load_run(tmp_path / "mine"), 5, seed=0)
    assert "2 epochs" in " ".join(str(each.body) for each in run_sections(tmp_path / "mine"))
    # only the loop knows which images it was trained on
    said = plain_summary(read_record(tmp_path / "mine"))
    assert said.startswith("Of 12 photographs that it was scored on, ")


def test_a_model_without_maps_is_recorded_without_pictures(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    recorded(tmp_path / "mine", model=flat, factory="tests.helpers.recorded:flat")
    assert not (tmp_path / "mine" / "album").exists()
    assert run_sections(tmp_path / "mine")


def test_the_second_of_two_processes_scores_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Tiny(3, 3)
    alone = recorded(tmp_path / "alone", model=model).result
    monkeypatch.setattr(fit_recorder, "rank", lambda: 1)
    second = recorded(tmp_path / "mine", model=model).result
    assert alone is not None
    assert second is not None
    assert second.items() <= alone.items()
    assert not (tmp_path / "mine").exists()
