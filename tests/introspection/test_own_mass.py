"""Own mass, held to its definition written out image by image."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind, class_maps
from selfexplain.introspection import OwnMass
from selfexplain.introspection.own_mass import guarded_cross_entropy, standardized_similarity
from selfexplain.introspection.spread import LearnedSpread, fit_weights, hashed_permutation
from selfexplain.introspection.target import (
    mixed_target,
    soft_cross_entropy,
    softmax_target,
    uniform_target,
)
from selfexplain.models import build_model
from selfexplain.objectives import PSKD, Objective

K = 5


def own_mass(**options: float | str) -> OwnMass:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=K, in_channels=1)
    return OwnMass(model, num_images=8, **options)  # type: ignore[arg-type]


def z_score_softmax(s: list[float], y: int, kappa: float) -> list[float]:
    others = [c for c in range(K) if c != y]
    mean = sum(s[c] for c in others) / len(others)
    std = math.sqrt(sum((s[c] - mean) ** 2 for c in others) / len(others))
    raw = [math.exp(kappa * (s[c] - mean) / std) if c != y else 0.0 for c in range(K)]
    return [value / sum(raw) for value in raw]


@pytest.mark.parametrize("kappa", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("cap", [1.0, 0.3])
def test_it_follows_its_definition_over_epochs(kappa: float, cap: float) -> None:
    objective = own_mass(alpha=0.6, kappa=kappa, cap=cap).double()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    x, y = torch.randn(8, 1, 8, 8).double(), torch.arange(8) % K
    past: dict[int, float] = {}
    for epoch, order in enumerate(([0, 1, 2, 3, 4, 5], [7, 5, 3, 1, 0, 2], [6, 4, 2, 0, 7, 1])):
        objective.begin_epoch(epoch, 3)
        alpha = 0.6 * (epoch + 1) / 3
        for places in (order[:3], order[3:]):
            index = torch.tensor(places)
            s_BK = objective.similarity(x[index], y[index]).tolist()
            out = objective(x[index], y[index], index)
            expected = 0.0
            log_p_BK = out["output"].detach().log_softmax(dim=1)
            for i, place in enumerate(places):
                label = int(y[place])
                m = min(cap, alpha * (1 - past.get(place, 1.0)))
                q = z_score_softmax(s_BK[i], label, kappa)
                target = [(1 - m) * (c == label) + m * q[c] for c in range(K)]
                expected -= sum(t * float(v) for t, v in zip(target, log_p_BK[i], strict=True)) / 3
                past[place] = float(log_p_BK[i, label].exp())
            # The similarity is computed in float32.
            assert out["loss"].item() == pytest.approx(expected, rel=1e-6)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()


@pytest.mark.parametrize("kind", ["grad_cam", "feature_x_gradient"])
def test_similarity_may_be_that_of_an_earlier_layer(kind: MapKind) -> None:
    objective = own_mass(kind=kind, layer="block1", similarity="cosine", kappa=2.0)
    objective.begin_epoch(0, 1)
    x, y, index = torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 2]), torch.arange(3)
    maps = class_maps(objective.model, x, kind=kind, layer="block1").flatten(2)
    expected = []
    for i, label in enumerate(y.tolist()):
        s = F.cosine_similarity(maps[i], maps[i, label], dim=1).tolist()
        expected.append(z_score_softmax(s, label, 2.0))
    objective(x, y, index)
    past_B = objective.past_N[index]
    out = objective(x, y, index)
    m_B1 = (0.8 * (1 - past_B))[:, None]
    target = (1 - m_B1) * F.one_hot(y, K) + m_B1 * torch.tensor(expected)
    loss = -(target * out["output"].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(out["loss"], loss, rtol=1e-4, atol=1e-5)
    out["loss"].backward()
    assert objective.model.training  # and no hook is left
    assert not any(module._forward_hooks for module in objective.model.modules())


def test_equally_similar_classes_get_even_shares() -> None:
    s = torch.full((2, K), 0.3)
    assert torch.equal(standardized_similarity(s, torch.tensor([0, 4])), torch.zeros(2, K))


def test_an_even_spread_needs_no_layer_to_explain() -> None:
    objective = OwnMass(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_images=2, kappa=0.0)
    objective.begin_epoch(0, 1)
    x, y = torch.randn(2, 1, 2, 2), torch.tensor([0, 2])
    objective(x, y, torch.arange(2))["loss"].backward()
    assert 0 < float(objective(x, y, torch.arange(2))["mass"]) < 1  # the second time it knows them


def test_a_spread_by_explanations_says_what_it_needs() -> None:
    objective = OwnMass(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_images=2)
    objective.begin_epoch(0, 1)
    with pytest.raises(InputError, match=r"kind 'cam' needs .*; pass kind="):
        objective(torch.randn(2, 1, 2, 2), torch.tensor([0, 2]), torch.arange(2))


def test_permutations_keep_the_values_and_differ() -> None:
    q = torch.rand(64, K)
    y = torch.arange(64) % K
    q[torch.arange(64), y] = 0.0
    place = torch.arange(64)
    one, other = hashed_permutation(q, y, place, 0), hashed_permutation(q, y, place, 1)
    assert torch.equal(one[torch.arange(64), y], torch.zeros(64))
    assert torch.equal(one.sort(dim=1).values, q.sort(dim=1).values)
    assert torch.equal(one, hashed_permutation(q, y, place, 0))
    assert not torch.equal(one, other)
    # Of 24 orders of four classes each image gets one at random: a share of 1 / 4 stays in place.
    kept = (one == q).float().mean(dim=1).mul(K).sub(1).div(K - 1).mean()
    assert 0.1 < float(kept) < 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5; pass a number from 0 to 1"),
        ({"cap": -1.0}, "cap is -1; pass a number from 0 to 1"),
        ({"kappa": math.nan}, "kappa is nan; pass a finite number"),
        ({"control": "none at all"}, "pass one of none, permuted"),
        ({"kappa": "high"}, "kappa is 'high'; pass a number from -100 to 100, or learned"),
        ({"kappa": 101.0}, "kappa is 101; pass a number from -100 to 100, or learned"),
        ({"rho": -0.1}, "rho is -0.1; pass a number from 0 to 1"),
        ({"mass_from": "peers"}, "mass_from is 'peers'; pass one of last_epoch, average"),
        (
            {"layer": "block1", "similarity": "attribution"},
            "attribution reads the last feature map, not kind cam at layer block1",
        ),
        ({"average_decay": 1.0}, "average_decay is 1; pass a number of at least 0 and below 1"),
    ],
)
def test_refusals(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_mass(**options)


def test_it_wants_to_be_told_of_epochs_and_places() -> None:
    objective, x, y = own_mass(), torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(InputError, match="begin_epoch"):
        objective(x, y, torch.arange(2))
    objective.begin_epoch(0, 1)
    with pytest.raises(InputError, match="place in the training set"):
        objective(x, y)


# The guard.


def random_target(
    count: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, K), a spread q (B, K), labels (B,), and masses (B,)."""
    generator = torch.Generator().manual_seed(0)
    z_BK, s_BK = torch.randn(2, count, K, dtype=dtype, generator=generator)
    y_B = torch.arange(count) % K
    return z_BK, softmax_target(s_BK, y_B), y_B, torch.rand(count, dtype=dtype, generator=generator)


def test_the_guard_takes_the_mass_from_the_largest_logit() -> None:
    z_BK, q_BK, y_B, mass_B = random_target(12)
    z_BK.requires_grad_()
    (found_BK,) = torch.autograd.grad(guarded_cross_entropy(z_BK, q_BK, y_B, mass_B), z_BK)
    largest_B = z_BK.argmax(dim=1)
    assert 0 < int((largest_B == y_B).sum()) < 12
    taken_BK = F.one_hot(largest_B, K) - q_BK
    expected_BK = z_BK.softmax(dim=1) - F.one_hot(y_B, K) + mass_B.unsqueeze(1) * taken_BK
    torch.testing.assert_close(found_BK, expected_BK / 12)
    assert torch.autograd.gradcheck(lambda z: guarded_cross_entropy(z, q_BK, y_B, mass_B), z_BK)


def test_the_guarded_loss_of_right_images_is_the_mixed_one() -> None:
    z_BK, q_BK, y_B, mass_B = random_target(12)
    z_BK[torch.arange(12), y_B] = 9.0
    target_BK = mixed_target(q_BK, y_B, mass_B)
    guarded = guarded_cross_entropy(z_BK, q_BK, y_B, mass_B)
    torch.testing.assert_close(guarded, soft_cross_entropy(z_BK, target_BK))


# Training for a few epochs, and what the memory holds.


def train(objective: Objective, epochs: int = 3, classes: int = K) -> list[float]:
    """The losses of an objective that wants places, on the same eight images."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 1, 8, 8, generator=generator).to(next(objective.parameters()).dtype)
    y = torch.arange(8) % classes
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.05)
    losses = []
    for epoch in range(epochs):
        objective.begin_epoch(epoch, epochs)
        for place in torch.randperm(8, generator=generator).split(4):
            loss = objective(x[place], y[place], place)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kappa", [1.0, 0.0])
def test_without_explanations_the_past_is_ps_kds(kappa: float) -> None:
    """In the second epoch to the last bits; losses in float64 differ by float64's rounding."""
    own = own_mass(rho=0.0, kappa=kappa).double()
    past = PSKD(copy.deepcopy(own.model), num_images=8, num_classes=K)
    assert not own.explains
    assert train(own) == pytest.approx(train(past.double()), rel=1e-12)
    torch.testing.assert_close(own.past_NK, past.past_NK, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [{"kappa": 2.0}, {"kappa": 0.0}, {"control": "permuted"}])
def test_past_and_explanations_are_multiplied(options: dict[str, float | str]) -> None:
    objective = own_mass(rho=0.3, **options)
    train(objective, epochs=1)
    objective.begin_epoch(1, 2)
    x, y, place = torch.randn(8, 1, 8, 8), torch.arange(8) % K, torch.arange(8)
    r_BK, masses_B = objective.past_NK.tolist(), 1 - objective.past_N
    objective.eval()
    if objective.kappa == 0:
        e_BK = uniform_target(torch.zeros(8, K), y)
    else:
        e_BK = objective.target_of(objective.similarity(x, y), y)
    if options.get("control") == "permuted":  # the explanations alone
        e_BK = hashed_permutation(e_BK, y, place, 2)
    out = objective(x, y, place)
    log_p_BK = out["output"].detach().log_softmax(dim=1)
    expected = 0.0
    for i, label in enumerate(y.tolist()):
        raw = [r_BK[i][c] ** 0.7 * float(e_BK[i, c]) ** 0.3 if c != label else 0 for c in range(K)]
        m = 0.8 * float(masses_B[i])
        for c in range(K):
            target = (1 - m) * (c == label) + m * raw[c] / sum(raw)
            expected -= target * float(log_p_BK[i, c]) / 8
    assert out["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert float(masses_B.min()) > 0


def test_a_memory_for_all_classes_needs_their_number() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Conv2d(1, 1, 1))
    for options in ({"rho": 0.5}, {"kappa": "learned"}):
        with pytest.raises(InputError, match="num_classes is 0; pass the number"):
            OwnMass(body, num_images=8, **options)  # type: ignore[arg-type]
        made = OwnMass(own_mass().model, num_images=8, num_classes=9, **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"made for 9 classes.* of 5; pass num_classes=5"):
            train(made)
    made = own_mass(rho=0.5)
    learned = own_mass(kappa="learned")
    with pytest.raises(
        InputError, match=r"remembers 8 images and 5 classes, and .* 6 classes; bui"
    ):
        OwnMass(made.model, num_images=8, num_classes=6, kappa="learned").load_state_dict(
            learned.state_dict()
        )
    other = OwnMass(made.model, num_images=8, num_classes=K + 1, rho=0.5)
    with pytest.raises(InputError, match="num_images=8 and num_classes=5, and this objective"):
        other.load_state_dict(made.state_dict())


@pytest.mark.parametrize("kappa", [1.0, "learned"])
def test_a_class_table_is_read_in_place_of_the_images_similarity(kappa: float | str) -> None:
    objective = own_mass(kappa=kappa, aggregation="class")
    train(objective, epochs=1)
    objective.begin_epoch(1, 2)
    objective.eval()
    objective.class_mean.mean_KK.copy_(torch.randn(K, K))
    x, y, place = torch.randn(8, 1, 8, 8), torch.arange(8) % K, torch.arange(8)
    out = objective(x, y, place)
    s_BK = standardized_similarity(objective.class_mean.mean_KK[y], y)
    if kappa == "learned":
        a, k = objective.learned.weights_T
        s_BK = a * standardized_similarity(out["output"].detach(), y) + k * s_BK
    target_BK = mixed_target(softmax_target(s_BK, y), y, 0.8 * (1 - objective.past_N))
    torch.testing.assert_close(out["loss"], soft_cross_entropy(out["output"], target_BK))


# The average of the weights.


@pytest.mark.parametrize("mirror", [True, False])
def test_mass_from_the_average_follows_its_definition(mirror: bool) -> None:
    options = {"average_decay": 0.5, "alpha": 0.6, "kappa": 0.0, "mirror": mirror}
    objective = own_mass(mass_from="average", **options).double()
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.1)
    average = copy.deepcopy(objective.model).eval()  # the plain twin
    x, y = torch.randn(8, 1, 8, 8).double(), torch.arange(8) % K
    view = torch.stack([x[..., 7 - i] for i in range(8)], dim=-1) if mirror else x
    for epoch in range(3):
        objective.begin_epoch(epoch, 3)
        model = objective.model.state_dict()
        mean = {
            name: 0.5 * old + 0.5 * model[name] if old.is_floating_point() else model[name]
            for name, old in average.state_dict().items()
        }
        average.load_state_dict(mean)
        with torch.no_grad():
            p_B = average(view).softmax(dim=1)[torch.arange(8), y]
        out = objective(x, y, torch.arange(8))
        expected = 0.6 * (epoch + 1) / 3 * (1 - p_B.mean()) if epoch else 0.0
        assert float(out["mass"]) == pytest.approx(float(expected), rel=1e-9)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert all(p.grad is None for p in objective.average.parameters())


def test_each_model_has_its_own_average_and_keeps_it() -> None:
    objective = own_mass(mass_from="average", kappa=0.0)
    whole, of_whole = objective.model, objective.average
    train(objective, epochs=1)
    before = {name: value.clone() for name, value in of_whole.state_dict().items()}
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, K))
    objective.replace_model(head)
    of_head = objective.average
    train(objective, epochs=1)
    objective.replace_model(whole)
    assert objective.average is of_whole
    for name, value in of_whole.state_dict().items():
        assert torch.equal(value, before[name]), name
    objective.replace_model(head)
    assert objective.average is of_head


def test_no_average_of_layers_without_a_shape() -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(K))
    with pytest.raises(InputError, match="call the model once before"):
        OwnMass(lazy, num_images=8, kappa=0.0, mass_from="average")


# Learned weights.


def labels_and_terms(count: int, a: float, k: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Z-scores (B, K) of logits and similarities, the class named, and labels drawn by a and k."""
    generator = torch.Generator().manual_seed(0)
    z_BK, s_BK = torch.randn(2, count, K, generator=generator)
    named_B = z_BK.argmax(dim=1)
    p_BK = softmax_target(a * z_BK + k * s_BK, named_B)
    return z_BK, s_BK, named_B, torch.multinomial(p_BK, 1, generator=generator).squeeze(1)


def test_the_weights_that_labels_were_drawn_by_are_found() -> None:
    z_BK, s_BK, named_B, y_B = labels_and_terms(2000, 1.5, -0.7)
    spread = LearnedSpread(K, num_images=2000)
    for part in torch.arange(2000).split(300):
        spread.remember(z_BK[part], s_BK[part], named_B[part], y_B[part])
    spread.fit()
    torch.testing.assert_close(spread.weights_T, torch.tensor([1.5, -0.7]), atol=0.12, rtol=0)


def test_only_wrong_images_count_and_the_latest_are_kept() -> None:
    z_BK, s_BK, named_B, y_B = labels_and_terms(24, 1.0, 1.0)
    twice, once = LearnedSpread(K, num_images=10), LearnedSpread(K, num_images=10)
    for each, first in ((twice, 0), (once, 16)):
        for i in range(first, 24, 8):
            part = slice(i, i + 8)
            each.remember(z_BK[part], s_BK[part], named_B[part], y_B[part])
            each.remember(z_BK[part], s_BK[part], y_B[part], y_B[part])  # all right
    assert (int(twice.count), int(once.count)) == (24, 8)
    # Ten rows: images 20 to 23 lie over the first four, and 14 to 19 stand in the others.
    expected = torch.cat([once.terms_MJT[4:8], once.terms_MJT[:4]])
    assert torch.equal(twice.terms_MJT[[0, 1, 2, 3, 6, 7, 8, 9]], expected)
    assert not twice.terms_MJT[10].any()  # where all others went
    twice.fit()
    before = twice.weights_T.clone()
    assert before.any()
    twice.fit()  # nothing was wrong since
    assert torch.equal(twice.weights_T, before)


def test_a_few_images_do_not_send_the_weights_to_infinity() -> None:
    second = torch.tensor([[[0.0, 0.0], [-2.0, -2.0], [-3.0, -1.0]]])  # the label came second
    assert float(fit_weights(second).abs().max()) < 1.0
    assert fit_weights(torch.zeros(3, 4, 2), penalty=0.0).tolist() == [0.0, 0.0]
    assert fit_weights(1e4 * second).isfinite().all()


@pytest.mark.parametrize("options", [{"kappa": "learned"}, {"rho": 0.5}, {"aggregation": "class"}])
def test_with_two_classes_there_is_one_way_to_spread(options: dict[str, float | str]) -> None:
    losses = []
    for each in (options, {"kappa": 0.0}):
        torch.manual_seed(0)
        model = build_model("small_cnn", num_classes=2, in_channels=1)
        objective = OwnMass(model, num_images=8, **each)  # type: ignore[arg-type]
        losses.append(train(objective, classes=2))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_learned_weights_spread_the_mass_and_are_told() -> None:
    objective = own_mass(kappa="learned", alpha=1.0).double()
    train(objective, epochs=1)
    assert int(objective.learned.count) > 0
    objective.begin_epoch(1, 2)
    a, k = objective.learned.weights_T.tolist()
    x, y, place = torch.randn(8, 1, 8, 8).double(), torch.arange(8) % K, torch.arange(8)
    objective.eval()
    s_BK = standardized_similarity(objective.similarity(x, y), y)
    mass_B = 1 - objective.past_N
    out = objective(x, y, place)
    q_BK = softmax_target(a * standardized_similarity(out["output"], y) + k * s_BK, y)
    expected = soft_cross_entropy(out["output"], mixed_target(q_BK, y, mass_B))
    torch.testing.assert_close(out["loss"], expected, rtol=1e-5, atol=0)
    assert (float(out["logit_weight"]), float(out["kappa"])) == (a, k)
    assert k
    torch.testing.assert_close(objective.soft_target(x, y), q_BK.float(), rtol=1e-4, atol=1e-6)


def test_permuted_explanations_teach_the_learned_weights_nothing_of_classes() -> None:
    told, permuted = own_mass(kappa="learned"), own_mass(kappa="learned", control="permuted")
    for each in (told, permuted):
        train(each, epochs=1)
    left, right = (each.learned.terms_MJT[:8] for each in (told, permuted))
    assert torch.equal(left[..., 0], right[..., 0])  # those of the logits
    assert not torch.equal(left[..., 1], right[..., 1])
