"""Optimizers by name: torch's own rules, in groups that hold each parameter once."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selfexplain.cli import parse
from selfexplain.errors import InputError
from selfexplain.experiments.options import DeviceOptions, to_dict
from selfexplain.experiments.runtime import check_device
from selfexplain.models import build_model
from selfexplain.objectives import BYOT, Standard
from selfexplain.training import TrainingOptions, cost
from selfexplain.training.optimizers import (
    OPTIMIZERS,
    MuonAdamW,
    hidden_weights,
    make_optimizer,
    parameter_groups,
)
from selfexplain.training.options import LR, WEIGHT_DECAY, OptimizerName

NAMES: tuple[OptimizerName, ...] = ("sgd", "adamw", "muon")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),  # a bias would have no gradient but rounding errors
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.Linear(5, 3),
    )


def steps(model: nn.Module, *optimizers: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        x = torch.randn(8, 1, 6, 6, generator=generator)
        y = torch.randint(0, 3, (8,), generator=generator)
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def test_every_name_has_a_maker_and_rates() -> None:
    assert set(OPTIMIZERS) == set(LR) == set(WEIGHT_DECAY) == set(NAMES)


def test_sgd_and_adamw_are_those_of_torch() -> None:
    found, expected = net(), net()
    steps(found, make_optimizer("sgd", found))
    sgd = torch.optim.SGD(
        expected.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps(expected, sgd)
    assert equal(found, expected)

    found, expected = net(), net()
    steps(found, make_optimizer("adamw", found, lr=0.01, momentum=0.8))
    adamw = torch.optim.AdamW(expected.parameters(), lr=0.01, betas=(0.8, 0.999), weight_decay=0.05)
    steps(expected, adamw)
    assert equal(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_is_that_of_torch_for_hidden_layers_and_adamw_for_the_rest(
    layout: torch.memory_format,
) -> None:
    found = net().to(memory_format=layout)  # type: ignore[call-overload]
    steps(found, make_optimizer("muon", found, lr=0.01))

    class Unfolded(nn.Module):
        """The second convolution as a matrix, which torch's Muon takes."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(net()[1].weight.detach().flatten(1))

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return nn.functional.conv2d(x_BCHW, self.weight.view(6, 4, 3, 3))

    plain = net()
    plain[1] = Unfolded()
    hidden = [plain[1].weight, plain[4].weight]
    others = [p for p in plain.parameters() if all(p is not weight for weight in hidden)]
    muon = torch.optim.Muon(
        hidden, lr=0.01, weight_decay=0.05, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    steps(plain, muon, torch.optim.AdamW(others, lr=0.01, weight_decay=0.05))
    tolerance = 0.0 if layout is torch.contiguous_format else 1e-3  # bf16 within Muon's steps
    for p, q in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q.view(p.shape), rtol=0, atol=tolerance)


def test_a_copy_and_a_loaded_state_go_on_alike() -> None:
    model = net()
    optimizer = make_optimizer("muon", model)
    steps(model, optimizer)
    twin, stepper = copy.deepcopy((model, optimizer))
    loaded = net()
    loaded.load_state_dict(model.state_dict())
    fresh = make_optimizer("muon", loaded)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, by in ((model, optimizer), (twin, stepper), (loaded, fresh)):
        steps(each, by, seed=1)
    assert equal(model, twin)
    assert equal(model, loaded)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_scaler_divides_what_is_stepped_with(name: OptimizerName) -> None:
    def trained(scale: float | None) -> list[Tensor]:
        model = net()
        optimizer = make_optimizer(name, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        scaler.scale(model(torch.ones(4, 1, 6, 6)).square().mean()).backward()
        scaler.step(optimizer)
        return list(model.parameters())

    for p, q in zip(trained(2.0**10), trained(None), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("decay_vectors", [False, True])
def test_groups_hold_every_parameter_once(split: bool, decay_vectors: bool) -> None:
    model = build_model("resnet20", num_classes=10, in_channels=3)
    objective = BYOT(model, image_shape=(3, 16, 16))
    groups = parameter_groups(objective, 0.1, decay_vectors=decay_vectors, split_hidden=split)
    grouped = [p for group in groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, objective.parameters()))
    for group in groups:
        decayed = {p.ndim > 1 for p in group["params"]}
        assert group["weight_decay"] == (0.1 if decay_vectors or decayed == {True} else 0.0)
    if not split and decay_vectors:  # in the order of 0.1.0, whose checkpoints number them
        assert [id(p) for p in grouped] == [id(p) for p in objective.parameters()]


def test_hidden_are_neither_first_nor_heads_nor_grouped() -> None:
    model = build_model("resnet20", num_classes=10, in_channels=3)
    objective = BYOT(model, image_shape=(3, 16, 16))
    names = {id(p): name for name, p in objective.named_parameters()}
    hidden = {names[id(weight)] for weight in hidden_weights(objective)}
    convolutions = {
        f"model.{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    assert convolutions - hidden == {next(n for n in names.values() if n in convolutions)}
    heads = {n for n, p in objective.named_parameters() if p.ndim == 2 and p.shape[0] == 10}
    assert len(heads) > 1
    assert not heads & hidden

    depthwise = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    assert hidden_weights(depthwise) == []
    assert hidden_weights(nn.ReLU()) == []


def test_a_step_without_gradients_moves_nothing() -> None:
    model = net()
    make_optimizer("muon", model).step()
    assert equal(model, net())


def test_what_torch_lacks_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"muon needs PyTorch 2\.9 or later, and this is"):
        check_device(DeviceOptions(accelerator="cpu"), TrainingOptions(optimizer="muon"))
    with pytest.raises(InputError, match=r"muon needs PyTorch 2\.9"):
        MuonAdamW([], lr=0.1)


def test_muon_of_bare_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="pass the module"):
        make_optimizer("muon", net().parameters())


def test_the_record_of_a_run_holds_the_rates_of_its_optimizer() -> None:
    command = ["train", "--data", "digits"]
    plain = to_dict(parse(command))["training"]
    assert plain.keys().isdisjoint({"optimizer", "decay_vectors"})  # a run of 0.1.0 is the same run
    assert (plain["lr"], plain["weight_decay"]) == (0.1, 5e-4)
    said = parse([*command, "--lr", "0.1", "--weight-decay", "0.0005", "--optimizer", "sgd"])
    assert to_dict(said) == to_dict(parse(command))
    assert said.out == parse(command).out

    adamw = to_dict(parse([*command, "--optimizer", "adamw", "--no-decay-vectors"]))["training"]
    assert (adamw["optimizer"], adamw["lr"], adamw["weight_decay"]) == ("adamw", 1e-3, 0.05)
    assert adamw["decay_vectors"] is False


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_timed_with_the_optimizer_of_the_runs(
    name: OptimizerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric import Fabric

    made = []

    def noted(*arguments: object, **options: object) -> torch.optim.Optimizer:
        made.append(make_optimizer(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(cost, "make_optimizer", noted)
    cost.interleaved_cost(
        {"standard": Standard(net())},
        "standard",
        (torch.zeros(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4)),
        fabric=Fabric(accelerator="cpu", devices=1),
        optimizer=name,
        rounds=1,
    )
    expected = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "muon": MuonAdamW}[name]
    assert [type(each) for each in made] == [expected]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    from lightning_fabric import Fabric

    from selfexplain.training.loop import restore, start, state_of

    fabric = Fabric(accelerator="cpu", devices=1)

    def begun(name: OptimizerName) -> object:
        return start(Standard(net()), TrainingOptions(optimizer=name), fabric)

    path = tmp_path / "checkpoint.pt"
    state = state_of(begun("adamw"), fabric)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="of a training with AdamW, not SGD"):
        restore(begun("sgd"), fabric, state, path)  # type: ignore[arg-type]
    old = state_of(begun("sgd"), fabric)  # type: ignore[arg-type]
    del old["optimizer"]  # as 0.1.0 wrote it
    restore(begun("sgd"), fabric, old, path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="of a training with SGD, not MuonAdamW"):
        restore(begun("muon"), fabric, old, path)  # type: ignore[arg-type]
