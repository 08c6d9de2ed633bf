"""Models: published parameter counts, shapes, and names that cannot be built."""

import sys
import types

import pytest
import torch
from torch import nn

from selfexplain.errors import InputError
from selfexplain.models import BUILT_IN, build_model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # He et al. 2016, table 6 (CIFAR-10): 0.27 M, 0.46 M, 0.85 M; exact counts by layer sums
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
        ("resnet18", 11_173_962),
        # Zagoruyko and Komodakis 2016 (CIFAR-10): WRN-16-2 0.7 M, WRN-28-10 36.5 M
        ("wrn16_2", 691_674),
        ("wrn28_10", 36_479_194),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, published: int) -> None:
    with torch.device("meta"):
        assert count(build_model(name, num_classes=10, in_channels=3)) == published


def test_small_cnn_count_by_hand() -> None:
    convolutions = 9 * (1 * 32 + 32 * 64 + 64 * 128)
    norms = 2 * (32 + 64 + 128)
    assert count(build_model("small_cnn", num_classes=10, in_channels=1)) == (
        convolutions + norms + 128 * 10 + 10
    )


def test_fast_cnn_count_by_hand() -> None:
    pairs = 2 * 128 * 128 + 2 * 512 * 512
    convolutions = 9 * (3 * 64 + 64 * 128 + 128 * 384 + 384 * 512 + pairs)
    norms = 2 * (64 + 3 * 128 + 384 + 3 * 512)
    with torch.device("meta"):
        model = build_model("fast_cnn", num_classes=100, in_channels=3)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 8
    assert count(model) == convolutions + norms + 512 * 100 + 100


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n != "wrn28_10"])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_one_column_a_class(name: str, channels: int) -> None:
    model = build_model(name, num_classes=7, in_channels=channels).eval()
    with torch.no_grad():
        assert model(torch.randn(2, channels, 16, 16)).shape == (2, 7)


def test_unknown_name_offers_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean resnet20"):
        build_model("resnet200", num_classes=2, in_channels=3)


def test_own_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_models")
    module.linear = lambda num_classes, in_channels: nn.Sequential(  # type: ignore[attr-defined]
        nn.Flatten(), nn.Linear(in_channels * 4, num_classes)
    )
    module.wrong = lambda num_classes, in_channels: 3  # type: ignore[attr-defined]
    module.bad_signature = lambda width: nn.Linear(1, 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_models", module)
    model = build_model("own_models:linear", num_classes=5, in_channels=3)
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 5)
    with pytest.raises(InputError, match="must return"):
        build_model("own_models:wrong", num_classes=5, in_channels=3)
    with pytest.raises(InputError, match="called as"):
        build_model("own_models:bad_signature", num_classes=5, in_channels=3)
    with pytest.raises(InputError, match="cannot be imported"):
        build_model("own_models:absent", num_classes=5, in_channels=3)


def test_timm_model_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments that timm documents for `create_model`; the real timm needs torchvision."""
    timm = types.ModuleType("timm")
    timm.list_models = lambda: ["resnet18"]  # type: ignore[attr-defined]
    timm.create_model = lambda name, num_classes, in_chans: nn.Linear(  # type: ignore[attr-defined]
        in_chans, num_classes
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert build_model("timm:resnet18", num_classes=7, in_channels=2).weight.shape == (7, 2)
    with pytest.raises(InputError, match="near names: resnet18"):
        build_model("timm:resnet19", num_classes=7, in_channels=2)


def test_timm_missing_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"selfexplain\[timm\]"):
        build_model("timm:resnet18", num_classes=5, in_channels=3)
