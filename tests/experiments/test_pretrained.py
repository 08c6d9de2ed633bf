"""Runs that start from published weights: images are as these want them, then and later."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.hub_folders import MEAN, STD, timm_folder, transformers_folder

from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.export import export_run
from selfexplain.experiments.fit.model import build_seeded, wanted_statistics
from selfexplain.experiments.fit.teacher import load_teacher, train_config
from selfexplain.experiments.fit.train import check_run, run_training
from selfexplain.experiments.options import CompareConfig, DataOptions, TrainConfig, to_dict
from selfexplain.experiments.reading_options import ExportConfig
from selfexplain.experiments.run_dir import read_finished
from selfexplain.training import TrainingOptions


@pytest.fixture(params=["timm", "transformers"], scope="module")
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A short training from a folder of weights."""
    folder = tmp_path_factory.mktemp("weights")
    write = timm_folder if request.param == "timm" else transformers_folder
    write(folder)
    prefix = "timm:local-dir" if request.param == "timm" else "hf"
    return TrainConfig(
        data=DataOptions(data="digits", channels=3, image_size=64, train_size=40),
        training=TrainingOptions(epochs=1, batch_size=20),
        model=f"{prefix}:{folder}",
        pretrained=True,
        out=tmp_path_factory.mktemp("out") / "run",
    )


def test_a_run_is_read_again_as_it_was_trained(config: TrainConfig) -> None:
    result = run_training(config)
    finished = read_finished(config.out)
    assert finished.config["pretrained"] is True
    torch.testing.assert_close(finished.mean_C, torch.tensor(MEAN))
    torch.testing.assert_close(finished.std_C, torch.tensor(STD))
    read = load_run(config.out)
    data = load(config.data)
    x = (
        data.test.read(torch.arange(len(data.test))).float() / 255
        - torch.tensor(MEAN)[:, None, None]
    )
    x = x / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        right = read.objective.model(x).argmax(dim=1) == data.test.labels_N
    assert 100 * right.double().mean().item() == pytest.approx(result["accuracy"])
    prepared = prepare(data, config.data, 0, wanted_statistics(config, 3))
    teacher = load_teacher(config.out, data, prepared)
    assert type(teacher).__name__ != "Renormalised"
    with pytest.raises(InputError, match="described in a folder of this machine"):
        export_run(ExportConfig(run=config.out, out=config.out.parent / "export"))


def test_training_starts_from_the_weights(config: TrainConfig) -> None:
    from safetensors.torch import load_file

    data = load(config.data)
    weights = load_file(Path(config.model.rpartition(":")[2]) / "model.safetensors")
    starts = [build_seeded(config, "standard", seed, data, num_images=40) for seed in (0, 0, 1)]
    heads = []
    for start in starts:
        state = {n.removeprefix("network."): v for n, v in start.model.state_dict().items()}
        head = [name for name in state if state[name].shape != weights[name].shape]
        assert [name.rpartition(".")[2] for name in head] == ["weight", "bias"]
        assert all(torch.equal(state[n], weights[n]) for n in weights if n not in head)
        heads.append(state[head[0]])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])  # the seed's
    fresh = build_seeded(replace(config, pretrained=False), "standard", 0, data, num_images=40)
    state = {n.removeprefix("network."): v for n, v in fresh.model.state_dict().items()}
    assert not all(torch.equal(state[n], w) for n, w in weights.items() if w.dim() == 4)


def test_a_comparison_starts_from_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    compared = CompareConfig(
        data=config.data, model=config.model, pretrained=True, out=tmp_path / "compared"
    )
    assert train_config(compared, "standard", 0, compared.out).pretrained
    assert to_dict(compared)["pretrained"] is True


def test_runs_without_weights_are_recorded_as_before() -> None:
    plain = TrainConfig(data=DataOptions(data="digits"))
    assert "pretrained" not in to_dict(plain)
    assert to_dict(replace(plain, pretrained=True))["pretrained"] is True


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("small_cnn", True, "there are no weights of small_cnn"),
        ("json:loads", True, "there are no weights of json:loads"),
        ("hf:me/tiny", False, "names weights; pass --pretrained"),
        ("timm:hf-hub:me/tiny", False, "names weights; pass --pretrained"),
        ("efficientnet_lite", True, "did you mean efficientnet_lite"),
    ],
)
def test_what_cannot_start(tmp_path: Path, model: str, pretrained: bool, said: str) -> None:
    shared = {"data": DataOptions(data="digits"), "model": model, "pretrained": pretrained}
    with pytest.raises(InputError, match=said):
        check_run(TrainConfig(**shared, out=tmp_path / "a"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        run_comparison(CompareConfig(**shared, out=tmp_path / "b"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
