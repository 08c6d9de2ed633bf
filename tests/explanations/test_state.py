"""Maps leave no trace: modes, buffers, gradients, hooks, random numbers; and where they run."""

import random

import numpy as np
import pytest
import torch
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net, warmed
from torch import nn

from selfexplain.errors import InputError
from selfexplain.explanations import (
    KINDS,
    capture,
    class_maps,
    find_explained_layer,
    find_pooled_head,
    maps_of_forward,
)
from selfexplain.introspection import Introspective

torch.set_num_threads(1)


def nets():
    torch.manual_seed(0)
    return [warmed(FunctionalNet(dropout=0.5)), warmed(residual_net())]


def snapshot(model, x):
    """Everything that must be as found; identities of tensors included."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [m.training for m in model.modules()],
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "versions": [t._version for t in (*model.parameters(), *model.buffers(), x)],
        "grads": [None if t.grad is None else t.grad.clone() for t in (*model.parameters(), x)],
        "flags": [t.requires_grad for t in (*model.parameters(), x)],
        "hooks": [list(getattr(m, h)) for m in model.modules() for h in hooks],
        "rng": torch.get_rng_state(),
        "x": x.detach().clone(),
        "modes_of_functions": torch.overrides._get_current_function_mode_stack(),
        "grad_mode": torch.is_grad_enabled(),
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def assert_same(a, b):
    for key in ("values", "rng", "x"):
        torch.testing.assert_close(a.pop(key), b.pop(key), rtol=0, atol=0)
    assert {k: str(v) for k, v in a.items()} == {k: str(v) for k, v in b.items()}


def prepared(model, train):
    """Mixed modes, gradients here and there, a frozen weight, hooks of the user."""
    model.train(train)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].training = not train
    parameters = list(model.parameters())
    parameters[0].grad = torch.randn_like(parameters[0])
    parameters[1].requires_grad_(False)
    norms[0].register_forward_hook(lambda *_: None)
    # Not on what an in-place operation follows: PyTorch itself forbids that.
    list(model.modules())[-1].register_full_backward_hook(lambda *_: None)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    x.grad = torch.ones_like(x)
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("create_graph", [True, False])
def test_all_is_left_as_found(kind, train, create_graph):
    for model in nets():
        x = prepared(model, train)
        before = snapshot(model, x)
        maps = class_maps(model, x, kind=kind, create_graph=create_graph)
        find_pooled_head(model, x)
        assert maps.requires_grad == create_graph
        assert_same(snapshot(model, x), before)


def test_a_forgotten_guard_would_be_noticed():
    model = nets()[0]
    x = prepared(model, train=True)
    before = snapshot(model, x)
    model(x)
    with pytest.raises(AssertionError):
        assert_same(snapshot(model, x), before)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("where", ["find", "maps"])
@pytest.mark.parametrize("kind", ["cam", "gradient"])
def test_all_is_left_as_found_when_the_model_raises(train, where, kind):
    for model in nets():
        x = prepared(model, train)
        if where == "maps":
            class_maps(model, x, kind=kind)  # the layer is known from here on
        head = model.get_submodule("head" if hasattr(model, "head") else "fc")

        def fail(*_):
            raise OSError("disk on fire")

        head.register_forward_pre_hook(fail)
        before = snapshot(model, x)
        with pytest.raises(OSError, match="disk on fire"):
            class_maps(model, x, kind=kind)
        assert_same(snapshot(model, x), before)


def test_a_lazy_model_is_refused_until_it_has_run():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Sequential(nn.LazyLinear(5)))
    x = torch.rand(2, 3, 8, 8)
    for explain in (class_maps, lambda net, x: Introspective(net)(x, torch.tensor([0, 1]))):
        with pytest.raises(
            InputError, match=r"'3\.0' is lazy and has no weights yet; run the model"
        ):
            explain(model, x)
    model(x)
    assert class_maps(model, x).shape == (2, 5, 6, 6)


def test_random_numbers_that_a_layer_draws_elsewhere_are_as_found():
    class Noisy(nn.Module):
        def forward(self, h):
            return h * random.random() + np.random.rand()  # noqa: NPY002

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Noisy(), nn.Flatten(), nn.Linear(144, 5))
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    class_maps(model, torch.rand(2, 3, 8, 8), kind="gradient")
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_capture_removes_its_hooks_when_the_block_raises():
    for model in nets():
        x = prepared(model, train=True)
        layer = find_explained_layer(model, x)
        before = snapshot(model, x)
        with pytest.raises(RuntimeError), capture(model, layer):
            model(x[:, :2])  # too few channels
        assert_same(snapshot(model, x), before)


def test_hooks_of_capture_are_one_on_the_layer_and_one_on_the_head():
    model = nets()[1]
    layer = find_explained_layer(model, torch.randn(2, 3, 12, 12, dtype=torch.float64))
    with capture(model, layer):
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sorted(hooks)[-3:] == [0, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_graph_survives(kind):
    for model in nets():  # in eval mode: BatchNorm's buffers are part of the user's graph
        x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
        wanted = torch.autograd.grad(model(x).square().sum(), model.parameters())
        for train in (False, True):
            loss = model(x).square().sum()
            model.train(train)
            class_maps(model, x, kind=kind)
            model.eval()
            got = torch.autograd.grad(loss, model.parameters())
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_works_without_grad_mode_and_with_frozen_weights(kind, guard):
    for model in nets():
        x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
        wanted = class_maps(model, x, kind=kind)
        early = {} if kind in ("cam", "input_x_gradient") else {"layer": layer_of(model)}
        wanted_early = class_maps(model, x, kind=kind, **early)
        model.requires_grad_(False)
        with guard():
            inside = x.clone()
            got = class_maps(model, inside, kind=kind)
            got_early = class_maps(model, inside, kind=kind, **early)
        torch.testing.assert_close((got, got_early), (wanted, wanted_early))


def layer_of(model):
    return "bn1" if hasattr(model, "bn1") else "layer1.bn1"


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind):
    for model in (net.float() for net in nets()):
        x = torch.randn(4, 3, 12, 12)
        wanted = class_maps(model, x, kind=kind)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = class_maps(model, x, kind=kind)
            model(x).float().square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        half = class_maps(model.bfloat16(), x.bfloat16(), kind=kind)
        for got in (mixed, half):
            error = (got.float() - wanted).norm() / wanted.norm()
            assert error < 0.1, (kind, error)


def test_no_backward_pass_at_the_pooled_layer(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a backward pass was run")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    for model in nets():
        for kind in ("cam", "grad_cam", "feature_x_gradient"):
            class_maps(model, torch.randn(2, 3, 12, 12, dtype=torch.float64), kind=kind)


def test_a_second_call_runs_the_model_once():
    for model in nets():
        x, calls = torch.randn(2, 3, 12, 12, dtype=torch.float64), []
        class_maps(model, x)
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        class_maps(model, x)
        assert len(calls) == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("where", ["default", "early"])
def test_fabric(precision, where):
    fabric = pytest.importorskip("lightning_fabric").Fabric(
        accelerator="cpu", devices=1, precision=precision
    )
    for model in (net.float() for net in nets()):
        x = torch.randn(4, 3, 12, 12)
        layer = None if where == "default" else layer_of(model)
        raw_layer = find_explained_layer(model, x, kind="grad_cam", layer=layer)
        wanted = class_maps(model, x, kind="grad_cam", layer=layer)
        wrapped = fabric.setup(model)
        for found in (raw_layer, find_explained_layer(wrapped, x, kind="grad_cam", layer=layer)):
            with capture(wrapped, found) as seen:
                logits = wrapped(x)
            maps = maps_of_forward(seen, logits, kind="grad_cam", create_graph=True)
            assert (maps - wanted).norm() / wanted.norm() < 0.05
            fabric.backward(logits.square().mean() + maps.square().mean())
        assert all(p.grad is not None for p in model.parameters())


def test_fabric_and_a_model_without_pooled_head():
    fabric = pytest.importorskip("lightning_fabric").Fabric(
        accelerator="cpu", devices=1, precision="bf16-mixed"
    )
    model, x = ViT(), torch.randn(2, 3, 12, 12)
    wanted = class_maps(model, x, kind="grad_cam")
    got = class_maps(fabric.setup(model), x, kind="grad_cam")
    assert (got - wanted).norm() / wanted.norm() < 0.1


def adapting_net(write):
    """A network in eval mode that nevertheless writes into its BatchNorm's buffers."""

    class Adapting(nn.Sequential):
        def forward(self, x):
            write(self[1], x)
            return super().forward(x)

    torch.manual_seed(0)
    return Adapting(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


@pytest.mark.parametrize(
    "write",
    [
        lambda norm, x: norm.train(),
        lambda norm, x: norm.running_mean.add_(x.mean()),
        lambda norm, x: setattr(norm, "running_mean", norm.running_mean + 1),
    ],
)
def test_buffers_written_in_eval_mode_are_as_found(write):
    model, x = adapting_net(write), torch.randn(4, 3, 8, 8)
    before = snapshot(model, x)
    class_maps(model, x)
    assert_same(before, snapshot(model, x))


def test_distributed_data_parallel(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for model in nets():
            model.train()
            for m in model.modules():
                if isinstance(m, nn.Dropout):
                    m.p = 0.0
            x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
            wanted = class_maps(model, x, kind="grad_cam", layer=layer_of(model))
            replica = nn.parallel.DistributedDataParallel(model)
            got = class_maps(replica, x, kind="grad_cam", layer=layer_of(model))
            torch.testing.assert_close(got, wanted)
            class_maps(replica, x)
            assert replica.require_forward_param_sync
            with capture(replica, find_explained_layer(replica, x)) as seen:
                logits = replica(x)
            maps = maps_of_forward(seen, logits, create_graph=True)
            (logits.square().mean() + maps.square().mean()).backward()
            assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_token_model_is_left_as_found():
    torch.manual_seed(0)
    model, x = ViT().train(), torch.randn(2, 3, 12, 12, requires_grad=True)
    before = snapshot(model, x)
    class_maps(model, x, kind="grad_cam")
    assert_same(snapshot(model, x), before)
