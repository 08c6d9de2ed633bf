"""Compiled parts: the same numbers, hooks that still run, and nothing left behind."""

import copy
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from tests.training.test_loop import Batches, Stop, model, run, same, stop_in_epoch
from torch import Tensor, nn

from selfexplain import class_maps
from selfexplain.errors import InputError
from selfexplain.introspection import Introspective
from selfexplain.models import build_model
from selfexplain.models.resnet import ResNet
from selfexplain.objectives import DML, Mixup, Objective, Standard
from selfexplain.training import CompiledParts
from selfexplain.training.cost import interleaved_cost
from selfexplain.training.steps import compiled_steps, networks_of, parts_of

pytestmark = pytest.mark.slow


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return ResNet((4, 8), (2, 2), num_classes=10)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def stepped(objective: Objective) -> tuple[dict[str, Tensor], list[Tensor]]:
    x_BCHW, y_B = batch()
    out = objective(x_BCHW, y_B)
    out["loss"].backward()
    return out, [p.grad for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("make", [Standard, Introspective])
def test_compiled_parts_compute_the_same(make: type[Objective]) -> None:
    plain, compiled = make(resnet()), make(resnet())
    expected, expected_gradients = stepped(plain)
    with CompiledParts(compiled, backend="aot_eager").used():
        found, gradients = stepped(compiled)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "cuda_graph", "compiled"),
    [(Standard, True, True), (Standard, False, True), (Mixup, True, False), (Mixup, False, True)],
)
def test_what_cannot_be_recorded_is_not_compiled(
    make: type[Objective], cuda_graph: bool, compiled: bool
) -> None:
    objective = Mixup(Standard(resnet()), 10) if make is Mixup else make(resnet())
    parts = CompiledParts(objective, backend="eager")
    with compiled_steps(parts, objective, cuda_graph=cuda_graph):
        assert any(m._compiled_call_impl is not None for m in objective.modules()) == compiled
    with compiled_steps(None, objective, cuda_graph=cuda_graph):
        assert all(m._compiled_call_impl is None for m in objective.modules())


def test_inductor_computes_the_same() -> None:
    plain, compiled = Standard(model()), Standard(model())
    for objective in (plain, compiled):
        objective.eval()  # without dropout's draws
    x_BCHW, y_B = next(Batches().epoch(0))
    with CompiledParts(compiled).used():
        found = compiled(x_BCHW, y_B)["loss"]
    torch.testing.assert_close(found, plain(x_BCHW, y_B)["loss"])


def test_blocks_share_their_compiled_code() -> None:
    """Four blocks of three kinds, shapes counted: three pieces of code."""
    pieces = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        pieces.append(graph)
        return graph.forward

    objective = Standard(resnet())
    with CompiledParts(objective, backend=backend).used():
        for _ in range(3):
            stepped(objective)
    blocks = sum(type(part).__name__ == "BasicBlock" for part in parts_of(objective.model))
    assert blocks == 4
    assert len(pieces) == 4  # the stem's, and those of the blocks


def test_nothing_is_left_behind_also_on_errors() -> None:
    objective = Standard(resnet())
    parts = CompiledParts(objective, backend="eager")
    twins = []

    def fail() -> None:
        with parts.used():
            twins.append(copy.deepcopy(objective))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    for module in (*objective.modules(), *twins[0].modules()):
        assert module._compiled_call_impl is None


def test_what_cannot_be_compiled_is_one_sentence() -> None:
    def backend(_graph: object, _inputs: object) -> object:
        raise RuntimeError("no compiler")

    objective = Standard(resnet())
    with (
        pytest.raises(InputError, match=r"cannot be compiled here .*leave out --compile"),
        CompiledParts(objective, backend=backend).used(),
    ):
        stepped(objective)


def test_parts_are_blocks() -> None:
    kinds = {
        name: [
            type(part).__name__
            for part in parts_of(build_model(name, num_classes=10, in_channels=3))
        ]
        for name in ("resnet20", "wrn16_2", "small_cnn")
    }
    assert kinds == {
        "resnet20": ["Sequential"] + 9 * ["BasicBlock"],
        "wrn16_2": 6 * ["PreactivationBlock"] + ["Sequential"],
        "small_cnn": 3 * ["Sequential"],
    }
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert parts_of(flat) == [flat]
    nested = nn.Sequential(nn.Sequential(resnet(), nn.ReLU()))
    assert len(parts_of(nested)) == 5


def test_peers_and_wrapped_models_are_compiled_too() -> None:
    peers = DML(resnet(), peers=[resnet(), resnet()])
    assert len(list(networks_of(peers))) == 3
    wrapped = Standard(resnet())
    assert list(networks_of(Mixup(wrapped, num_classes=10))) == [wrapped.model]


def test_training_with_compile_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfexplain.training.loop.CompiledParts", _eager_parts)
    whole = run(tmp_path / "whole", compile=True)
    with pytest.raises(Stop):
        run(tmp_path / "cut", compile=True, on_step=stop_in_epoch(2))
    resumed = run(tmp_path / "cut", compile=True, resume=True)
    assert same(whole, resumed)
    assert all(m._compiled_call_impl is None for m in whole.modules())


def _eager_parts(objective: Objective) -> CompiledParts:
    return CompiledParts(objective, backend="aot_eager")


def test_cost_of_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfexplain.training.cost.CompiledParts", _eager_parts)
    x_BCHW, y_B = batch()
    costs = interleaved_cost(
        {"standard": Standard(resnet())},
        "standard",
        (x_BCHW, y_B, torch.arange(4)),
        fabric=Fabric(accelerator="cpu", devices=1),
        compiled=True,
        rounds=1,
    )
    assert costs["standard"].ratio == 1


class TestUsersWhoCompile:
    """Models that the user compiled, in whole or in part, explain themselves all the same."""

    @pytest.mark.parametrize("kind", ["cam", "grad_cam", "gradient"])
    @pytest.mark.parametrize("how", ["whole", "module", "block"])
    def test_maps(self, kind: str, how: str) -> None:
        x_BCHW, _ = batch()
        expected = class_maps(resnet().eval(), x_BCHW, kind=kind)
        torch.testing.assert_close(
            class_maps(_compiled(how, x_BCHW).eval(), x_BCHW, kind=kind), expected
        )

    @pytest.mark.parametrize("how", ["whole", "module", "block"])
    def test_introspection(self, how: str) -> None:
        expected, _ = stepped(Introspective(resnet()))
        found, _ = stepped(Introspective(_compiled(how, batch()[0])))
        torch.testing.assert_close(found["loss"], expected["loss"])


def _compiled(how: str, x_BCHW: Tensor) -> nn.Module:
    """A compiled network that has run, so that its code is made and knows no hooks."""
    network = resnet()
    if how == "whole":
        network = torch.compile(network, backend="eager")
    else:
        part = network if how == "module" else network.stages[1]
        part.compile(backend="eager")
    buffers = copy.deepcopy(dict(network.named_buffers()))
    for training in (False, True):
        network.train(training)(x_BCHW)
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return network
