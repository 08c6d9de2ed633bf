"""The auxiliary head's loss beside an objective's own; its contract is tested with all others'."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.introspection import Introspective
from selfexplain.objectives import Standard, WithAuxiliaryHead
from selfexplain.spaces import build_network, load_genotype

X = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        load_genotype("published:DARTS_V2"),
        num_classes=4,
        in_channels=1,
        image_size=16,
        channels=4,
        cells=1,
        auxiliary=True,
    )


def test_loss_by_definition() -> None:
    model = network()
    out = WithAuxiliaryHead(Standard(model), weight=0.3)(X, Y)
    kept: list[Tensor] = []
    model.get_submodule("auxiliary").register_forward_hook(lambda m, i, o: kept.append(o))
    logits_BK = model(X)
    second = F.cross_entropy(kept[0], Y)
    torch.testing.assert_close(out["loss"], F.cross_entropy(logits_BK, Y) + 0.3 * second)
    torch.testing.assert_close(out["auxiliary"], second.detach())
    torch.testing.assert_close(out["output"], logits_BK)


def test_evaluation_is_the_objectives_own() -> None:
    objective = Introspective(network(), kind="grad_cam", layer="cells.0", similarity="cosine")
    both = WithAuxiliaryHead(objective).eval()
    ours, alone = both(X, Y), objective(X, Y)
    assert ours.keys() == alone.keys()
    torch.testing.assert_close(ours["loss"], alone["loss"])


def test_beside_introspection_both_losses_are_as_if_alone() -> None:
    out = WithAuxiliaryHead(Introspective(network()), weight=0.4)(X, Y)
    alone = Introspective(network())(X, Y)
    torch.testing.assert_close(out["introspection"], alone["introspection"])
    torch.testing.assert_close(out["loss"], alone["loss"] + 0.4 * out["auxiliary"])


def test_hook_is_gone_when_the_objective_raises() -> None:
    objective = WithAuxiliaryHead(Standard(network()))
    with pytest.raises(InputError, match="label 9 is outside"):
        objective(X, torch.tensor([0, 1, 2, 9]))
    assert not objective.model.get_submodule("auxiliary")._forward_hooks


def test_a_copy_listens_to_its_own_head() -> None:
    first = WithAuxiliaryHead(Standard(network()))
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.model.get_submodule("auxiliary").parameters():
            parameter.zero_()
    assert second(X, Y)["auxiliary"].item() == pytest.approx(torch.tensor(4.0).log().item())
    assert first(X, Y)["auxiliary"].item() != second(X, Y)["auxiliary"].item()


def test_period_and_warmup_are_the_objectives() -> None:
    inner = Introspective(network(), map_interval=3, warmup_steps=5)
    objective = WithAuxiliaryHead(inner)
    assert objective.period == 3
    objective.skip_warmup()
    assert inner.steps == 5


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="weight is -1; pass a number of at least 0"):
        WithAuxiliaryHead(Standard(network()), weight=-1)
    with pytest.raises(InputError, match="has no module 'second'"):
        WithAuxiliaryHead(Standard(network()), head="second")
    model = network()
    model.idle = nn.Linear(2, 4)
    with pytest.raises(InputError, match="ran 0 times in a training step"):
        WithAuxiliaryHead(Standard(model), head="idle")(X, Y)
    with pytest.raises(InputError, match="must return floating-point logits"):
        WithAuxiliaryHead(Standard(model), head="stem.layers")(X, Y)
