"""Saliency-guided training against loops over images and pixels."""

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

from selfexplain.objectives import SaliencyGuided
from selfexplain.objectives.saliency_guided import lowest_share, randomised

X, Y = batch()


def loop_loss(objective: SaliencyGuided, images: Tensor, masked: Tensor) -> Tensor:
    """CE + w KL, image by image and class by class, given the masked images."""
    total = torch.zeros((), dtype=torch.float64)
    for x, x_masked, y in zip(images, masked, Y, strict=True):
        p = objective.model(x[None])[0].softmax(0)
        q = objective.model(x_masked[None])[0].softmax(0)
        total = total - p[y].log()
        for k in range(len(p)):
            total = total + objective.weight * p[k] * (p[k] / q[k]).log()
    return total / len(images)


def inputs_of(objective: SaliencyGuided) -> list[Tensor]:
    """What the model is called with in one step."""
    seen: list[Tensor] = []
    # Later hooks see what the objective's own hook passes on.
    handle = objective.model[0].register_forward_hook(lambda m, i, o: seen.append(i[0]))
    objective(X, Y)
    handle.remove()
    return seen[-2:]


@pytest.mark.parametrize("make", [pooled_net, flat_net])
@pytest.mark.parametrize("signed", [False, True])
def test_masks_the_pixels_of_the_lowest_gradient(make, signed: bool) -> None:
    objective = SaliencyGuided(make(), share=0.3, signed=signed)
    _, masked = inputs_of(objective.eval())
    for x, x_masked, y in zip(X, masked, Y, strict=True):
        score = own_gradient(objective.model, x[None], int(y)).sum(0)
        score = (score if signed else score.abs()).detach()
        ranked = sorted((float(score[h, w]), h, w) for h in range(8) for w in range(8))
        for rank, (_, h, w) in enumerate(ranked):
            kept = torch.equal(x_masked[:, h, w], x[:, h, w])
            assert kept == (rank >= 19)  # 0.3 of 64 pixels, rounded down


def test_loss_by_definition() -> None:
    objective = SaliencyGuided(pooled_net(), weight=0.7).eval()
    x, masked = inputs_of(objective)
    out = objective(X, Y)
    torch.testing.assert_close(out["loss"], loop_loss(objective, x, masked))
    torch.testing.assert_close(out["loss"], out["cross_entropy"] + 0.7 * out["divergence"])
    assert out["divergence"] > 0


def test_gradient_of_the_loss_by_differences() -> None:
    objective = SaliencyGuided(pooled_net(), weight=2.0).eval()
    objective(X, Y)["loss"].backward()
    assert_differences_agree(lambda: objective(X, Y)["loss"], objective.model)


def test_random_values_stay_in_their_channels_range_and_fill_it() -> None:
    x = torch.stack((torch.rand(1, 50, 50), 5 + 2 * torch.rand(1, 50, 50)), dim=1)
    mask = torch.ones(1, 50, 50, dtype=torch.bool)
    new = randomised(x, mask, torch.Generator().manual_seed(0))
    for c in range(2):
        low, high = x[0, c].min(), x[0, c].max()
        assert low <= new[0, c].min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < new[0, c].max() <= high
        assert (new[0, c] - (low + high) / 2).abs().mean() == pytest.approx(
            float(high - low) / 4, rel=0.05
        )


def test_ties_take_the_first_pixels_and_shares_are_exact() -> None:
    mask = lowest_share(torch.zeros(2, 2, 3), 0.5)
    assert mask.flatten(1).tolist() == [[True] * 3 + [False] * 3] * 2
    assert not lowest_share(torch.zeros(1, 2, 2), 0.0).any()
    assert lowest_share(torch.zeros(1, 2, 2), 1.0).all()


def test_other_values_each_training_step_and_the_same_in_validation() -> None:
    objective = SaliencyGuided(pooled_net())
    first, second = inputs_of(objective)[1], inputs_of(objective)[1]
    assert not torch.equal(first, second)
    objective.eval()
    assert torch.equal(inputs_of(objective)[1], inputs_of(objective)[1])
    with torch.inference_mode():
        ours = objective(X.clone(), Y.clone())
    torch.testing.assert_close(ours["loss"], objective(X, Y)["loss"])


def test_a_divergence_of_weight_0_is_plain_training() -> None:
    objective = SaliencyGuided(pooled_net(), weight=0.0)
    out = objective(X, Y)
    plain = F.cross_entropy(objective.model(X), Y)
    torch.testing.assert_close(out["loss"], plain)


def test_a_model_without_space_works_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 4)).double()
    SaliencyGuided(model)(X, Y)["loss"].backward()
    assert model[1].weight.grad is not None
