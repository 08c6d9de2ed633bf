"""Networks of timm and transformers with weights from folders in the hub's layouts; no network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.hub_folders import MEAN, SIZES, STD, timm_folder, transformers_folder
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.experiments.fit.given import load_given
from selfexplain.experiments.reading_options import GivenModel
from selfexplain.explanations import class_maps
from selfexplain.models import build_model, pretraining_of
from selfexplain.models.build import check_model_name, check_without_weights, is_own


def equal_but(model: nn.Module, weights: dict[str, Tensor], prefix: str = "") -> list[str]:
    """Names of what a model has otherwise than these weights."""
    own = {name.removeprefix(prefix): value for name, value in model.state_dict().items()}
    return [name for name, value in own.items() if not torch.equal(value, weights[name])]


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("of_timm")
    return folder, timm_folder(folder)


@pytest.fixture(scope="module")
def of_transformers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("of_transformers")
    return folder, transformers_folder(folder)


def test_timm_keeps_all_but_the_head(of_timm: tuple[Path, dict[str, Tensor]]) -> None:
    folder, weights = of_timm
    name = f"timm:local-dir:{folder}"
    same = build_model(name, num_classes=4, in_channels=3, pretrained=True)
    assert equal_but(same, weights) == []
    model = build_model(name, num_classes=7, in_channels=3, pretrained=True)
    kept = {n: w for n, w in model.state_dict().items() if not n.startswith("fc.")}
    assert all(torch.equal(value, weights[n]) for n, value in kept.items())
    assert class_maps(model, torch.rand(2, 3, 64, 64)).shape == (2, 7, 2, 2)


def test_what_timm_says_of_its_weights(of_timm: tuple[Path, dict[str, Tensor]]) -> None:
    found = pretraining_of(f"timm:local-dir:{of_timm[0]}")
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert (found.image_size, found.class_names) == (64, ("a", "b", "c", "d"))
    known = pretraining_of("timm:test_resnet.r160_in1k")
    assert (known.image_size, known.class_names[985]) == (160, "daisy")


def test_transformers_keep_all_but_the_head(
    of_transformers: tuple[Path, dict[str, Tensor]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, weights = of_transformers
    same = build_model(f"hf:{folder}", num_classes=4, in_channels=3, pretrained=True)
    assert equal_but(same, weights, "model.") == []
    model = build_model(f"hf:{folder}", num_classes=7, in_channels=3, pretrained=True)
    kept = {
        name.removeprefix("model."): value
        for name, value in model.state_dict().items()
        if "classifier" not in name
    }
    assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    assert model.training
    assert class_maps(model, torch.rand(2, 3, 64, 64)).shape == (2, 7, 8, 8)
    fresh = build_model(f"hf:{folder}", num_classes=4, in_channels=3)
    assert "resnet.embedder.embedder.convolution.weight" in equal_but(fresh, weights, "model.")
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_what_transformers_say_of_their_weights(
    of_transformers: tuple[Path, dict[str, Tensor]],
) -> None:
    found = pretraining_of(f"hf:{of_transformers[0]}")
    assert found.mean == pytest.approx((0.4, 0.5, 0.6))
    assert found.std == pytest.approx((0.2, 0.3, 0.4))
    assert (found.image_size, found.class_names) == (54, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("changed", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [102] * 3, "image_std": [51] * 3}, 0.4, 0.2),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3}, 0.5, 0.5),
    ],
)
def test_pixels_are_scaled_as_the_processor_does(
    of_transformers: tuple[Path, dict[str, Tensor]],
    tmp_path: Path,
    changed: dict[str, object],
    mean: float,
    std: float,
) -> None:
    """(p - mean) / std of p in [0, 1] is what it makes of pixels of 0 to 255."""
    folder = tmp_path / "other"
    shutil.copytree(of_transformers[0], folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    found = pretraining_of(f"hf:{folder}")
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


def test_a_repository_is_found_in_the_hubs_cache(
    of_transformers: tuple[Path, dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    folder, weights = of_transformers
    cached = tmp_path / "models--me--tiny"
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = build_model("hf:me/tiny", num_classes=4, in_channels=3, pretrained=True)
    assert equal_but(model, weights, "model.") == []
    assert pretraining_of("hf:me/tiny").image_size == 54
    with pytest.raises(InputError, match="hf:me/absent cannot be loaded"):
        build_model("hf:me/absent", num_classes=4, in_channels=3, pretrained=True)


def test_weights_of_another_architecture(
    of_timm: tuple[Path, dict[str, Tensor]],
    of_transformers: tuple[Path, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    import timm
    import transformers

    shutil.copytree(of_timm[0], tmp_path / "t")
    other = timm.create_model("test_efficientnet", num_classes=4)
    save_file(other.state_dict(), tmp_path / "t" / "model.safetensors")
    with pytest.raises(InputError, match=r"cannot be built for 4 classes .*in state_dict"):
        build_model(
            f"timm:local-dir:{tmp_path / 't'}", num_classes=4, in_channels=3, pretrained=True
        )
    for name, sizes in {"wider": [8, 24], "deeper": [8, 16]}.items():
        folder = tmp_path / name
        shutil.copytree(of_transformers[0], folder)
        depths = [1, 2] if name == "deeper" else [1, 1]
        transformers.ResNetConfig(
            **{**SIZES, "depths": depths}, hidden_sizes=sizes, num_labels=4
        ).save_pretrained(folder)
        for classes in (4, 7):
            with pytest.raises(InputError, match="not those of its architecture"):
                build_model(f"hf:{folder}", num_classes=classes, in_channels=3, pretrained=True)


@pytest.mark.parametrize(
    ("name", "channels", "said"),
    [
        ("timm:local-dir:{}/absent", 3, "cannot be built .*absent"),
        ("timm:local-dir:", 3, "cannot be built"),
        ("timm:test_resnet.absent", 3, r"no weights of .*; pass one of test_resnet.r160_in1k"),
        ("timm:test_resnett", 3, "near names: test_resnet"),
        ("hf:{}/absent", 3, "cannot be loaded"),
        ("hf:", 3, "cannot be loaded"),
        ("hf:{}", 1, "is for images of 3 channels; pass --channels 3"),
    ],
)
def test_names_that_lead_nowhere(
    of_transformers: tuple[Path, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    channels: int,
    said: str,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=said):
        build_model(
            name.format(of_transformers[0]), num_classes=5, in_channels=channels, pretrained=True
        )


def test_a_name_of_weights_needs_that_they_are_wanted() -> None:
    for name in (
        "hf:me/tiny",
        "timm:local-dir:here",
        "timm:hf-hub:me/tiny",
        "timm:hf_hub:me/tiny",
        "timm:test_resnet.r160_in1k",
    ):
        assert not is_own(name)
        with pytest.raises(InputError, match="names weights; pass --pretrained"):
            check_without_weights(name)
    for name in ("timm:resnet18", "resnet20", "mine:hf", "efficientnet_lite0"):
        check_without_weights(name)


def test_a_network_is_built_again_by_the_name_of_its_weights() -> None:
    """As a finished run does, whose own weights it then gets."""
    pytest.importorskip("timm", reason="needs timm")
    model = build_model("timm:test_resnet.r160_in1k", num_classes=3, in_channels=1)
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_missing_packages_say_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, name, extra in (
        ("timm", "timm:resnet18", "timm"),
        ("transformers", "hf:me/tiny", "huggingface"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"pip install 'selfexplain\[{extra}\]'"):
            check_model_name(name, pretrained=True)


def test_a_file_of_weights_is_prepared_for_as_timm_says(
    of_timm: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, weights = of_timm
    file = folder / "model.safetensors"
    run, model = load_given(GivenModel(model=f"timm:local-dir:{folder}", weights=file))
    assert run.shape_CHW == (3, 64, 64)
    torch.testing.assert_close(run.mean_C, torch.tensor(MEAN))
    assert run.num_classes == 4
    assert equal_but(model, weights) == []


def test_a_file_of_weights_has_the_names_of_transformers(
    of_transformers: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, weights = of_transformers
    given = GivenModel(model=f"hf:{folder}", weights=folder / "model.safetensors")
    run, model = load_given(given)
    assert run.shape_CHW == (3, 54, 54)
    torch.testing.assert_close(run.std_C, torch.tensor(STD))
    assert equal_but(model, weights, "model.") == []
