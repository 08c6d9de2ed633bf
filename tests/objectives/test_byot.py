"""Be your own teacher: stages of several networks, the loss by loops, who teaches whom."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.models import PointwiseConv2d, build_model
from selfexplain.objectives import BYOT
from selfexplain.objectives.byot import ShallowClassifier, stage_hooks
from selfexplain.objectives.shared.stages import Stage, Staging, find_stages
from selfexplain.spaces import build_network, load_genotype

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 4, 0])


class Bottleneck(nn.Module):
    """Halves inside, past a convolution of the old resolution; one ReLU for all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.spatial = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.shortcut = PointwiseConv2d(channels, channels, step=2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.spatial(self.relu(self.reduce(x))))
        return self.relu(h + self.shortcut(x))


class Functional(nn.Module):
    """Pools by functions, so that no module halves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 4, 3, padding=1) for c in (1, 4, 4))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        return self.fc(F.relu(self.conv3(h)).mean(dim=(2, 3)))


class Wrapped(nn.Module):
    """A backbone that is one module to those outside."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


def bottlenecks() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        *(Bottleneck(4) for _ in range(2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def derived() -> nn.Module:
    genotype = load_genotype("published:DARTS_V2")
    return build_network(genotype, num_classes=5, in_channels=1, image_size=16, channels=4, cells=6)


def model(name: str = "small_cnn") -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=5, in_channels=1)


@pytest.mark.parametrize(
    ("network", "names", "sides", "deepest"),
    [
        (model, ["block1", "block2"], [16, 8], 4),
        (lambda: model("resnet18"), ["stages.0", "stages.1", "stages.2"], [16, 8, 4], 2),
        (lambda: model("wrn16_2"), ["blocks.1", "blocks.3"], [16, 8], 4),
        (
            lambda: Wrapped(model("resnet20")),
            ["backbone.stages.0", "backbone.stages.1"],
            [16, 8],
            4,
        ),
        (bottlenecks, ["0", "1"], [16, 8], 4),
        (Functional, ["conv1", "conv2"], [16, 8], 4),
        (derived, ["cells.1", "cells.3"], [16, 8], 4),
    ],
)
def test_stages_are_what_comes_before_each_halving(
    network: object, names: list[str], sides: list[int], deepest: int
) -> None:
    staging = find_stages(network(), (1, 16, 16))
    assert [stage.name for stage in staging.stages] == names
    assert [stage.side for stage in staging.stages] == sides
    assert staging.side == deepest
    assert staging.classes == 5


def test_the_last_three_stages_are_taken() -> None:
    layers = [nn.Conv2d(1, 4, 3, stride=2, padding=1)]
    layers += [nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(4)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 5))
    assert [s.name for s in find_stages(network, (1, 32, 32)).stages] == ["1", "2", "3"]


def test_a_module_that_is_called_twice_is_read_in_the_right_call() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    shared = nn.Sequential(
        network[0], relu, pool, nn.Conv2d(4, 6, 1), relu, pool, nn.Conv2d(6, 6, 1)
    )
    shared.extend([nn.Flatten(), nn.Linear(24, 5)])
    staging = find_stages(shared, (1, 8, 8))
    # The name of a shared module is that of its first place.
    assert [(s.name, s.call, s.channels) for s in staging.stages] == [("1", 0, 4), ("1", 1, 6)]
    with stage_hooks(shared, staging) as seen:
        shared(X.float())
    assert [tuple(m.shape[1:]) for m in seen.maps()] == [(4, 8, 8), (6, 4, 4)]


def test_finding_leaves_no_trace() -> None:
    network = model()
    network.block2.eval()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    rng = torch.get_rng_state()
    find_stages(network, (1, 8, 8))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def objective(**options: object) -> BYOT:
    network = model().double()
    torch.manual_seed(1)
    return BYOT(network, (1, 8, 8), **options)


@torch.no_grad()
def test_loss_by_definition() -> None:
    a, t, w = 0.3, 2.0, 0.05
    byot = objective(alpha=a, temperature=t, hint_weight=w).eval()
    net = byot.model
    first = net.block1(X)
    second = net.block2(net.halve(first))
    features = net.block3(net.halve(second)).mean(dim=(2, 3))
    logits_BK = net.head(features)
    p, soft = logits_BK.softmax(dim=1), (logits_BK / t).softmax(dim=1)
    expected = {"cross_entropy": 0.0, "shallow": 0.0, "distillation": 0.0, "hint": 0.0}
    for b in range(6):
        expected["cross_entropy"] -= float(p[b, Y[b]].log()) / 6
        for classifier, stage in zip(byot.classifiers, (first, second), strict=True):
            logits, shallow = classifier(stage)
            expected["shallow"] -= float(logits.softmax(dim=1)[b, Y[b]].log()) / 6
            q = (logits / t).softmax(dim=1)
            for k in range(5):
                kl = soft[b, k] * (soft[b, k] / q[b, k]).log()
                expected["distillation"] += t * t * float(kl) / 6
            for f in range(128):
                expected["hint"] += float((shallow[b, f] - features[b, f]) ** 2) / 6
    out = byot(X, Y)
    for name, value in expected.items():
        assert out[name].item() == pytest.approx(value), name
    total = expected["cross_entropy"] + (1 - a) * expected["shallow"]
    total += a * expected["distillation"] + w * expected["hint"]
    assert out["loss"].item() == pytest.approx(total)


def test_the_deepest_teaches_and_is_not_taught() -> None:
    """What only the end of the model uses learns from its own cross-entropy alone."""
    byot = objective(alpha=0.5, hint_weight=1.0)
    alone = copy.deepcopy(byot.model)
    byot(X, Y)["loss"].backward()
    F.cross_entropy(alone(X), Y).backward()
    for name, parameter in alone.named_parameters():
        ours = byot.model.get_parameter(name).grad
        if name.startswith(("block3", "head")):
            torch.testing.assert_close(ours, parameter.grad)
        else:
            assert not torch.allclose(ours, parameter.grad), name


def test_classifiers_are_saved_and_the_model_is_not_touched() -> None:
    byot = objective()
    assert byot.model.state_dict().keys() == model().state_dict().keys()
    saved = {name.split(".")[1] for name in byot.state_dict() if name.startswith("classifiers.")}
    assert saved == {"0", "1"}
    assert all(p.dtype == torch.float64 for p in byot.parameters())


def test_a_copy_reads_its_own_model() -> None:
    first = objective().eval()
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.zero_()
    assert second(X, Y)["cross_entropy"].item() == pytest.approx(torch.tensor(5.0).log().item())
    assert first(X, Y)["hint"].item() != second(X, Y)["hint"].item()


@pytest.mark.parametrize(("side", "deepest", "reached"), [(16, 4, 4), (7, 2, 2), (4, 4, 4)])
def test_bottleneck_reaches_the_deepest_resolution(side: int, deepest: int, reached: int) -> None:
    staging = Staging(stages=(), side=deepest, head="fc", features=8, classes=3)
    classifier = ShallowClassifier(Stage("layer", 0, channels=2, side=side), staging)
    assert classifier.bottleneck(torch.zeros(2, 2, side, side)).shape == (2, 8, reached, reached)


class LowRank(nn.Module):
    """A low-rank update beside the head, which runs after it."""

    def __init__(self, zeros: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
        self.fc, self.down, self.up = nn.Linear(4, 5), nn.Linear(4, 2), nn.Linear(2, 5, bias=False)
        if zeros:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x).mean((2, 3))
        return self.fc(h) + self.up(self.down(h))


def test_the_head_is_the_layer_that_returns_the_logits_and_not_the_last_one() -> None:
    byot = BYOT(LowRank(zeros=True), (1, 8, 8), layers=["body.0"])
    assert (byot.staging.head, byot.staging.features) == ("fc", 4)


def test_what_does_not_fit_is_named() -> None:
    for options, message in {
        "layers=blok2": "layer 'blok2' is not in the model; pass a name .*'block2'",
        "layers=head": r"layer 'head' returns \(2, 5\); pass layers that return \(B, C, H, W\)",
        "layers=block1,block1": "names one twice",
        "layers=": "layers is empty",
    }.items():
        names = [name for name in options.removeprefix("layers=").split(",") if name]
        with pytest.raises(InputError, match=message):
            objective(layers=names)
    with pytest.raises(InputError, match="alpha is 2; pass a number from 0 to 1"):
        objective(alpha=2.0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(InputError, match="no module was found after which the resolution"):
        BYOT(flat, (1, 8, 8))
    convolution = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="does not end in an nn"):
        BYOT(convolution, (1, 8, 8), layers=["0"])
    with pytest.raises(InputError, match="does not end in an nn"):
        BYOT(LowRank(zeros=False), (1, 8, 8), layers=["body.0"])
    idle = model()
    idle.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(InputError, match="layer 'spare' is not called in a forward pass"):
        BYOT(idle, (1, 8, 8), layers=["spare"])
