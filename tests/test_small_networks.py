"""No network damages memory on a CPU, of whatever width; users' layers that may do are named."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import small_networks
from tests.helpers.small_networks import NETWORKS, images
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from selfexplain.experiments.objectives import OBJECTIVES, build_objective
from selfexplain.introspection import Introspective
from selfexplain.lease import LeaSE
from selfexplain.models import BUILT_IN, PointwiseConv2d, build_model
from selfexplain.models.pointwise import strided_pointwise
from selfexplain.objectives import ObjectiveContext, Standard
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.spaces import build_network, build_supernet, published_genotypes

pytestmark = pytest.mark.slow

CHECKED = {  # a write outside of a buffer ends the process when the buffer is freed
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),  # tests.oracles, too
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "MALLOC_CHECK_": "3",
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # the code of most CPUs, here too
    "OMP_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "",
}


def checked_run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=CHECKED, capture_output=True, text=True, check=False
    )


def test_no_network_writes_outside_of_its_memory() -> None:
    run = checked_run(small_networks.__file__)
    if "not preloaded" in run.stderr:
        pytest.skip("no libc_malloc_debug here, which glibc 2.34 and later have, to check memory")
    walked = run.stdout.splitlines()
    assert run.returncode == 0, f"{walked[-1:]} ended with {run.returncode}: {run.stderr[-2000:]}"
    assert walked == list(NETWORKS)


WRITE_OUTSIDE = """
import ctypes
if "libc_malloc_debug" not in open("/proc/self/maps").read():
    raise SystemExit("not preloaded")
buffer = ctypes.create_string_buffer(2000)
ctypes.memset(buffer, 255, 2000 + OUTSIDE)
del buffer
print("unnoticed")
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the preload is Linux's")
@pytest.mark.parametrize("outside", [0, 1])
def test_the_check_notices_one_byte_outside(outside: int) -> None:
    run = checked_run("-c", WRITE_OUTSIDE.replace("OUTSIDE", str(outside)))
    if "not preloaded" in run.stderr:
        pytest.skip("no libc_malloc_debug here")
    assert ("unnoticed" in run.stdout) == (outside == 0)
    assert (run.returncode == 0) == (outside == 0)


class NoStridedPointwise(TorchDispatchMode):
    """Refuses every strided 1x1 convolution, from whichever function or layer it comes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            assert max(weight.shape[2:]) > 1 or max(stride) == 1, tuple(weight.shape)
        return func(*args, **(kwargs or {}))


def strided_layers(module: nn.Module) -> list[str]:
    return [
        name
        for name, m in module.named_modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
        and max(m.kernel_size) == 1
        and max(m.stride) > 1
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_convolves_single_pixels_with_a_stride(name: str) -> None:
    network = NETWORKS[name]()
    assert strided_layers(network) == []
    with NoStridedPointwise():
        network(images(name))


@pytest.mark.parametrize("name", [*BUILT_IN, *published_genotypes()])
def test_no_published_network_has_such_a_layer(name: str) -> None:
    with torch.device("meta"):
        if name in BUILT_IN:
            network = build_model(name, num_classes=10, in_channels=3)
        else:
            network = build_network(
                published_genotypes()[name],
                num_classes=10,
                in_channels=3,
                image_size=32,
                auxiliary=published_genotypes()[name].family == "darts",
            )
    assert strided_layers(network) == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_has_such_a_layer(name: str) -> None:
    def make() -> nn.Module:
        return build_model("resnet20", num_classes=5, in_channels=1)

    context = ObjectiveContext(
        num_classes=5, image_shape=(1, 16, 16), num_images=40, make_model=make, teacher=make()
    )
    assert strided_layers(build_objective(name, make(), ObjectiveOptions(), context)) == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "step"), [((8, 8), 2), ((7, 9), 2), ((9, 8), 3), ((5, 4), 1)])
def test_sliced_convolution_is_the_strided_one(
    size: tuple[int, int], step: int, layout: torch.memory_format
) -> None:
    """Weights of one seed, values, and derivatives twice over, in float64."""
    networks = []
    for make in (
        lambda: PointwiseConv2d(3, 4, step),
        lambda: nn.Conv2d(3, 4, 1, stride=step, bias=False),
    ):
        torch.manual_seed(0)
        networks.append(make().double().to(memory_format=layout))
    sliced, strided = networks
    assert {k: v.tolist() for k, v in sliced.state_dict().items()} == {
        k: v.tolist() for k, v in strided.state_dict().items()
    }
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    torch.testing.assert_close(sliced(x), strided(x))
    for ours, theirs in zip(
        *(small_networks.derivatives(network, x.clone()) for network in networks), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


class Own(nn.Module):
    """A user's network, which halves its first features by a strided 1x1 convolution."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.halve = nn.LazyConv2d(layer.in_channels, 1), layer
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.halve(self.stem(x))).flatten(1))


FRAGILE = {
    "stride 2": lambda: nn.Conv2d(3, 8, 1, stride=2),
    "one direction": lambda: nn.Conv2d(3, 8, 1, stride=(1, 2)),
    "stride 4": lambda: nn.Conv2d(7, 8, 1, stride=4, padding="valid"),
    "one channel": lambda: nn.Conv2d(1, 1, 1, stride=2),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1, stride=2)),
}
SOUND = {
    "eight channels": lambda: nn.Conv2d(8, 8, 1, stride=2),
    "stride 1": lambda: nn.Conv2d(3, 8, 1),
    "3x3": lambda: nn.Conv2d(3, 8, 3, stride=2),
    "depthwise": lambda: nn.Conv2d(3, 3, 1, stride=2, groups=3),
    "padded": lambda: nn.Conv2d(3, 8, 1, stride=2, padding=1),
    "sliced": lambda: PointwiseConv2d(3, 8, 2),
    "frozen": lambda: nn.Conv2d(3, 8, 1, stride=2).requires_grad_(requires_grad=False),
    "not on a CPU": lambda: nn.Conv2d(3, 8, 1, stride=2, device="meta"),
    "float64": lambda: nn.Conv2d(3, 8, 1, stride=2).double(),
}
X, Y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfexplain.models.pointwise.platform.machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_x86")
class TestUsersLayers:
    @pytest.mark.parametrize("name", FRAGILE)
    def test_layer_is_named(self, name: str) -> None:
        assert strided_pointwise(nn.ModuleDict({"a": nn.Sequential(FRAGILE[name]())})) == ["a.0"]

    @pytest.mark.parametrize("name", SOUND)
    def test_others_are_not(self, name: str) -> None:
        assert strided_pointwise(nn.Sequential(SOUND[name]())) == []

    @pytest.mark.parametrize("objective_of", [Standard, Introspective])
    def test_objective_warns_once_before_the_first_backward(self, objective_of: Any) -> None:
        objective = objective_of(Own(FRAGILE["stride 2"]()))
        objective.model(X)  # lazy layers learn their channels
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            objective(X, Y)  # nothing is trained
        with pytest.warns(UserWarning, match=r"layer 'halve' is a .* x\[:, :, ::2, ::2\]"):
            objective(X, Y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            objective(X, Y)

    def test_warning_as_error_can_be_caught(self) -> None:
        objective = Standard(Own(FRAGILE["stride 2"]()))
        objective.model(X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="halve"):
                objective(X, Y)
            assert objective(X, Y)["loss"].isfinite()

    def test_audience_of_a_search(self) -> None:
        supernet = build_supernet(
            "nasbench201", num_classes=3, in_channels=1, image_size=8, channels=2, cells=1
        )
        audience = Own(FRAGILE["stride 2"]())
        audience(X)
        with pytest.warns(UserWarning, match="layer 'halve' is a"):
            LeaSE(supernet, audience).declare((X, Y), (X, Y))

    def test_other_cpus_and_torch_without_onednn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = nn.Sequential(FRAGILE["stride 2"]())
        with torch.backends.mkldnn.flags(enabled=False):
            assert strided_pointwise(model) == []
        monkeypatch.setattr("selfexplain.models.pointwise.platform.machine", lambda: "arm64")
        assert strided_pointwise(model) == []
