"""The album of a run: right, complete, and without a trace in the training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfexplain.data import normalise
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit import snapshots as album_module
from selfexplain.experiments.fit import train as train_module
from selfexplain.experiments.fit.snapshots import (
    explain,
    introspective_of,
    open_snapshots,
    shown_images,
)
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.explanations import class_maps
from selfexplain.introspection import Introspective
from selfexplain.models import build_model
from selfexplain.objectives import Objective, Standard
from selfexplain.objectives.shared.base import Wrapper
from selfexplain.training import TrainingOptions

DATA = DataOptions(data="digits", train_size=100)


def config(out: Path, objective: str = "introspective", **training: object) -> TrainConfig:
    options = TrainingOptions(epochs=2, batch_size=50, **training)
    return TrainConfig(data=DATA, objective=objective, training=options, out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album") / "run"
    run_training(config(folder))
    return folder


def test_last_page_is_what_the_finished_run_says(run: Path) -> None:
    shown, page = (load_file(run / "album" / f"{n}.safetensors") for n in ("images", "epoch-0002"))
    finished = load_run(run)
    x_BCHW = normalise(shown["images"], finished.mean_C, finished.std_C)
    labels_B = shown["labels"]
    target_BK = finished.objective.soft_target(x_BCHW, labels_B)
    torch.testing.assert_close(page["target"], target_BK)
    torch.testing.assert_close(
        page["probabilities"], finished.objective.model(x_BCHW).softmax(dim=1).detach()
    )
    maps_BKHW = class_maps(finished.objective.model, x_BCHW)
    for i, classes_R in enumerate(page["classes"]):
        torch.testing.assert_close(page["maps"][i], maps_BKHW[i, classes_R])
        likest = target_BK[i].argsort(descending=True).tolist()
        first = [int(labels_B[i]), int(page["probabilities"][i].argmax())]
        assert classes_R.tolist() == list(dict.fromkeys([*first, *likest]))[:4]


def test_similarity_is_the_mean_soft_target_of_each_class(run: Path) -> None:
    found = load_file(run / "similarity.safetensors")
    finished, prepared = load_run(run), prepare(load(DATA), DATA, seed=0)
    y_N = prepared.scored.labels_N
    x_NCHW = normalise(
        prepared.scored.read(torch.arange(len(y_N))), finished.mean_C, finished.std_C
    )
    target_NK = finished.objective.soft_target(x_NCHW, y_N)
    for k in range(10):
        torch.testing.assert_close(found["similarity"][k], target_NK[y_N == k].mean(dim=0))
        assert found["count"][k] == (y_N == k).sum()


def test_predictions_give_the_accuracy_of_the_result(run: Path) -> None:
    result = run_training(replace(config(run), resume=True))
    kept = load_file(run / "predictions.safetensors")
    right_N = kept["logits"].argmax(dim=1) == kept["labels"]
    assert 100 * float(right_N.double().mean()) == pytest.approx(result["accuracy"])


@pytest.mark.parametrize("objective", ["introspective:aggregation=class", "standard"])
def test_training_is_the_same_without_an_album(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(config(tmp_path / "with", objective))
    monkeypatch.setattr(train_module, "open_snapshots", lambda *_: None)
    run_training(config(tmp_path / "without", objective))
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "without" / "album").exists()


def test_average_of_the_weights_is_explained_where_it_is_scored(tmp_path: Path) -> None:
    run_training(config(tmp_path, ema=0.9))
    page = load_file(tmp_path / "album" / "epoch-0002.safetensors")
    images = load_file(tmp_path / "album" / "images.safetensors")["images"]
    averaged = load_run(tmp_path)
    x_BCHW = normalise(images, averaged.mean_C, averaged.std_C)
    torch.testing.assert_close(
        page["probabilities"], averaged.objective.model(x_BCHW).softmax(dim=1).detach()
    )


def test_model_without_pooled_head_is_explained_by_gradients() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x_BCHW, y_B = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    objective, state = Standard(model), torch.get_rng_state()
    page = explain(objective, model, x_BCHW, y_B)
    assert introspective_of(objective, model, x_BCHW).options.kind == "grad_cam"
    assert page["maps"].shape[:2] == (3, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_two_classes_have_one_rival() -> None:
    model = build_model("small_cnn", num_classes=2, in_channels=1)
    page = explain(Standard(model), model, torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    assert page["classes"].tolist() == [[0, 1], [1, 0], [1, 0]]


def test_the_predicted_class_follows_the_true_one() -> None:
    """Then the likest others; the similarities are what the target was made of."""
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=8, in_channels=1)
    x_BCHW, y_B = torch.randn(16, 1, 8, 8), torch.arange(16) % 8
    page = explain(Standard(model), model, x_BCHW, y_B)
    predicted_B = page["probabilities"].argmax(dim=1)
    assert (predicted_B != y_B).any()
    for y, answer, classes, target, similarity in zip(
        y_B.tolist(),
        predicted_B.tolist(),
        page["classes"].tolist(),
        page["target"],
        page["similarity"],
        strict=True,
    ):
        likest = [k for k in target.argsort(descending=True).tolist() if k not in {y, answer}]
        wanted = list(dict.fromkeys([y, answer, *likest]))
        assert classes == wanted[:4]
        others = [k for k in range(8) if k != y]
        assert similarity[others].argmax() == target[others].argmax()


def test_similarity_of_many_images_looks_at_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_module, "MOST_SCORED", 50)
    run_training(config(tmp_path))
    assert load_file(tmp_path / "similarity.safetensors")["count"].sum() == 50


def test_shown_images_are_firsts_of_spread_classes() -> None:
    scored = prepare(load(DATA), DATA, seed=0).scored
    labels: Tensor = scored.labels_N[shown_images(scored)]
    assert labels.tolist() == [0, 2, 4, 5, 7, 9]


@pytest.mark.parametrize("make", [Standard, Introspective])
def test_album_opens_before_the_model_is_moved(
    make: Callable[[nn.Module], Objective], tmp_path: Path
) -> None:
    objective = make(build_model("small_cnn", num_classes=10, in_channels=1))
    album = open_snapshots(
        tmp_path, prepare(load(DATA), DATA, seed=0), torch.device("meta"), objective
    )
    assert album is not None
    assert album.device.type == "meta"


def test_control_that_needs_no_maps_trains_without_an_album(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    objective = Introspective(model, control="uniform")
    prepared = prepare(load(DATA), DATA, seed=0)
    assert open_snapshots(tmp_path, prepared, torch.device("cpu"), objective) is None
    assert list(tmp_path.iterdir()) == []


def test_opening_leaves_the_search_for_a_layer_to_training(tmp_path: Path) -> None:
    objective = Introspective(build_model("small_cnn", num_classes=10, in_channels=1))
    prepared = prepare(load(DATA), DATA, seed=0)
    assert open_snapshots(tmp_path, prepared, torch.device("cpu"), objective) is not None
    assert objective._layers._found == {}


def test_wrapped_objective_explains_with_its_own_options() -> None:
    model = build_model("small_cnn", num_classes=5, in_channels=1)
    objective = Introspective(model, kind="gradient", exponent=2.0)
    x_BCHW, y_B = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    assert introspective_of(Wrapper(Wrapper(objective)), model, x_BCHW) is objective
    page = explain(Wrapper(objective), model, x_BCHW, y_B)
    model.eval()
    torch.testing.assert_close(page["target"], objective.soft_target(x_BCHW, y_B))
    assert page["maps"].shape[2:] == (8, 8)


def test_kinds_that_take_gradients_look_at_fewer_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_module, "MOST_GRADIENTS", 200)
    run_training(config(tmp_path, "introspective:kind=gradient"))
    assert load_file(tmp_path / "similarity.safetensors")["count"].sum() == 20


class Neck(nn.Module):
    """BatchNorm between pool and head, which is the identity until it has learned."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.neck, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(self.features(x).mean((2, 3))))  # type: ignore[no-any-return]


def test_a_neck_is_explained_by_gradients_from_the_first_page_on() -> None:
    model = Neck()
    x_BCHW, y_B = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4, 5])
    objective = Standard(model)
    for _ in range(2):
        assert introspective_of(objective, model, x_BCHW).options.kind == "grad_cam"
        explain(objective, model, x_BCHW, y_B)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        objective.train()(x_BCHW, y_B)["loss"].backward()
        optimizer.step()


def test_a_page_that_cannot_be_made_is_a_warning_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> dict[str, Tensor]:
        raise RuntimeError("no such map\nsecond line")

    run_training(config(tmp_path / "whole", "standard"))
    real = album_module.explain
    calls: list[int] = []

    def fail_later(*args: object) -> dict[str, Tensor]:
        calls.append(1)
        return real(*args) if len(calls) == 1 else fail()  # type: ignore[arg-type]

    monkeypatch.setattr(album_module, "explain", fail_later)
    monkeypatch.setattr(album_module, "soft_target", fail)
    with pytest.warns(UserWarning, match="missing from the report: no such map") as heard:
        result = run_training(config(tmp_path / "part", "standard"))
    said = [str(each.message) for each in heard]
    assert said == [
        "the pictures of epoch 1 will be missing from the report: no such map",
        "the pictures of epoch 2 will be missing from the report: no such map",
        "the table of similar classes will be missing from the report: no such map",
    ]
    pages = [path.name for path in (tmp_path / "part" / "album").iterdir()]
    assert pages == ["images.safetensors"]
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert result == run_training(replace(config(tmp_path / "part", "standard"), resume=True))
