"""Learner and critic against their three losses, each with a forward pass of its own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.relatives_nets import (
    assert_differences_agree,
    batch,
    flat_net,
    own_gradient,
    pooled_net,
)
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives import LearnerCritic
from selfexplain.objectives.lsx import evidence

X, Y = batch()


def loop_evidence(learner: nn.Module) -> Tensor:
    """The explanations image by image, value by value; differentiable."""
    explained = []
    for x, y in zip(X, Y.tolist(), strict=True):
        product = x * own_gradient(learner, x[None], y)
        kept = torch.where(product > 0, product, torch.zeros_like(product))
        explained.append(kept / (kept.max() + 1e-8))
    return torch.stack(explained)


@pytest.mark.parametrize("make", [pooled_net, flat_net])
def test_loss_and_gradients_by_definition(make) -> None:
    learner, critic = make(), flat_net()
    objective = LearnerCritic(learner, critic, weight=3.0)
    out = objective(X, Y)
    out["loss"].backward()

    frozen = copy.deepcopy(critic).requires_grad_(False)
    second, apart = copy.deepcopy(learner), copy.deepcopy(critic)
    explained = loop_evidence(second)
    loss = F.cross_entropy(second(X), Y) + 3.0 * F.cross_entropy(frozen(explained), Y)
    loss = loss + F.cross_entropy(apart(explained.detach()), Y)
    second.zero_grad()
    apart.zero_grad()
    loss.backward()
    torch.testing.assert_close(out["loss"], loss)
    for ours, theirs in ((learner, second), (critic, apart)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_gradients_by_differences() -> None:
    objective = LearnerCritic(pooled_net(), flat_net(), weight=3.0)
    objective(X, Y)["loss"].backward()

    def what_the_learner_minimises() -> Tensor:
        out = objective(X, Y)
        return out["cross_entropy"] + 3.0 * out["critic"]

    assert_differences_agree(what_the_learner_minimises, objective.model)
    assert_differences_agree(lambda: objective(X, Y)["critic"], objective.critic)


def test_weight_0_leaves_the_learner_alone() -> None:
    objective = LearnerCritic(pooled_net(), flat_net(), weight=0.0)
    objective(X, Y)["loss"].backward()
    alone = pooled_net()
    F.cross_entropy(alone(X), Y).backward()
    for a, b in zip(objective.model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert objective.critic.head.weight.grad.any()


def test_one_forward_of_each_model_a_step() -> None:
    objective = LearnerCritic(pooled_net(), flat_net())
    objective(X, Y)  # the first call looks for the layer
    calls: list[nn.Module] = []
    for model in (objective.model, objective.critic):
        model.register_forward_hook(lambda module, inputs, output: calls.append(module))
    objective(X, Y)["loss"].backward()
    assert calls == [objective.model, objective.critic]


def test_explanations_without_evidence_are_black_and_harmless() -> None:
    gradient = torch.full((1, 1, 2, 2), -1.0, requires_grad=True)
    black = evidence(torch.ones(1, 1, 2, 2), gradient)
    assert not black.any()
    black.sum().backward()
    assert gradient.grad.isfinite().all()


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(InputError, match="weight is -1"):
        LearnerCritic(pooled_net(), flat_net(), weight=-1.0)
    with pytest.raises(InputError, match="logits"):
        LearnerCritic(pooled_net(), nn.Identity())(X, Y)
    with pytest.raises(InputError, match="do not depend"):
        LearnerCritic(Deaf().double(), flat_net())(X, Y)


class Deaf(nn.Module):
    """Does not look at the images."""

    def __init__(self) -> None:
        super().__init__()
        self.logits_K = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_K.expand(len(x), 4)
