"""Deep mutual learning against loops, and against each network's own gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives import DML, Mixup

X = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3])


def networks(count: int) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double() for _ in range(count)]


def own_loss(k: int, probabilities: list[Tensor], weight: float) -> Tensor:
    """L_k by the definition, image by image and class by class."""
    batch, classes = probabilities[0].shape
    total = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        total = total - probabilities[k][b, Y[b]].log()
        for other in range(len(probabilities)):
            if other == k:
                continue
            for c in range(classes):
                p, q = probabilities[other][b, c].detach(), probabilities[k][b, c]
                total = total + weight * p * (p / q).log() / (len(probabilities) - 1)
    return total / batch


@pytest.mark.parametrize("count", [2, 3])
def test_loss_and_every_networks_gradient_by_definition(count: int) -> None:
    models = networks(count)
    out = DML(models[0], peers=models[1:], weight=0.7)(X, Y)
    losses = [own_loss(k, [m(X).softmax(dim=1) for m in models], 0.7) for k in range(count)]
    torch.testing.assert_close(out["loss"], sum(losses))
    out["loss"].backward()
    for model, loss in zip(models, losses, strict=True):
        parameters = list(model.parameters())
        # Of its own loss alone: what it does to the others' losses must not move it.
        for parameter, expected in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            torch.testing.assert_close(parameter.grad, expected)


def test_output_and_terms_are_the_first_networks() -> None:
    models = networks(3)
    out = DML(models[0], peers=models[1:])(X, Y)
    torch.testing.assert_close(out["output"], models[0](X))
    torch.testing.assert_close(out["cross_entropy"], F.cross_entropy(models[0](X), Y).detach())
    both = own_loss(0, [m(X).softmax(dim=1) for m in models], 1.0).detach()
    torch.testing.assert_close(out["cross_entropy"] + out["mutual"], both)


def test_peers_are_drawn_apart_and_saved() -> None:
    models = networks(2)
    objective = DML(models[0], peers=models[1:])
    assert not torch.equal(models[0][1].weight, models[1][1].weight)
    assert "peers.0.1.weight" in objective.state_dict()
    assert len(list(objective.parameters())) == 4


def test_all_networks_see_the_same_mixed_images() -> None:
    models, seen = networks(2), []
    for model in models:
        model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    Mixup(DML(models[0], peers=models[1:]), num_classes=4)(X, Y)
    assert seen[0] is seen[1]
    assert not torch.equal(seen[0], X)


def test_what_does_not_fit_is_named() -> None:
    first, second = networks(2)
    with pytest.raises(InputError, match="peers is empty"):
        DML(first, peers=[])
    with pytest.raises(InputError, match="one model is given twice"):
        DML(first, peers=[second, second])
    with pytest.raises(InputError, match="weight is -1"):
        DML(first, peers=[second], weight=-1.0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(6, 5)).double()
    with pytest.raises(InputError, match="the models have 4 and 5 classes"):
        DML(first, peers=[other])(X, Y)
