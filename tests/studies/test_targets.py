"""The laboratory of targets: its written-out gradients and similarities against the library's."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from studies.targets.forms import FORMS, Form, gradient_of_logits, of_images
from studies.targets.head_study import Laboratory, table
from studies.targets.heads import Heads, TrainingSets, train_heads
from studies.targets.likelihood import Asked, fit, log_likelihood, verdicts
from studies.targets.settings import read_settings, wins
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.introspection import OwnMass, attribution_cosine, similarity_to_true
from selfexplain.introspection.own_mass import standardized_similarity
from selfexplain.introspection.spread import fit_weights
from selfexplain.introspection.target import softmax_target
from selfexplain.objectives import PSKD, LabelSmoothing, Objective

CLASSES, FEATURES, IMAGES = 5, 6, 64


def sets_of(maps_NCP: Tensor, y_N: Tensor) -> TrainingSets:
    return TrainingSets(
        x_RNC=maps_NCP.mean(2).unsqueeze(0),
        y_RN=y_N.unsqueeze(0),
        energy_RNC=maps_NCP.square().sum(2).unsqueeze(0),
        mirrored_RNC=maps_NCP.mean(2).unsqueeze(0),
        maps_MCP=maps_NCP,
        index_RN=torch.arange(len(y_N)).unsqueeze(0),
    )


@pytest.fixture
def sets() -> TrainingSets:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(IMAGES, FEATURES, 4, generator=generator)
    return sets_of(maps, torch.arange(IMAGES) % CLASSES)


@pytest.mark.parametrize("loss", ["mixed", "non_true", "guarded"])
def test_the_gradient_is_that_of_the_loss(loss: str) -> None:
    z_RBK = torch.randn(2, 8, CLASSES, dtype=torch.float64, requires_grad=True)
    y_RB = torch.arange(16).reshape(2, 8) % CLASSES
    is_true_RBK = F.one_hot(y_RB, CLASSES).bool()
    q_RBK = of_images(softmax_target, torch.randn_like(z_RBK), y_RB).detach()
    mass_RB = torch.rand(2, 8, dtype=torch.float64)
    log_p_RBK = z_RBK.log_softmax(2)
    if loss == "mixed":
        target_RBK = (1 - mass_RB.unsqueeze(2)) * is_true_RBK + mass_RB.unsqueeze(2) * q_RBK
        loss_RB = -(target_RBK * log_p_RBK).sum(2)
    elif loss == "non_true":
        others_RBK = z_RBK.masked_fill(is_true_RBK, -torch.inf).log_softmax(2)
        divergence_RB = -(q_RBK * others_RBK.masked_fill(is_true_RBK, 0)).sum(2)
        loss_RB = -(is_true_RBK * log_p_RBK).sum(2) + mass_RB * divergence_RB
    else:
        pull_RB = z_RBK.amax(2) - (q_RBK * z_RBK).sum(2)
        loss_RB = -(is_true_RBK * log_p_RBK).sum(2) + mass_RB * pull_RB
    (expected,) = torch.autograd.grad(loss_RB.sum(), z_RBK)
    found = gradient_of_logits(z_RBK.detach(), y_RB, mass_RB, q_RBK, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("measure", ["attribution", "cam_cosine", "votes", "attended_votes"])
def test_similarities_are_the_librarys(sets: TrainingSets, measure: str) -> None:
    heads = Heads(
        Form(mass="own"),
        {},
        num_classes=CLASSES,
        num_features=FEATURES,
        num_images=IMAGES,
        seeds=[3],
    )
    y_B, maps_BCHW = sets.y_RN[0], sets.maps_MCP.reshape(IMAGES, FEATURES, 2, 2)
    z_RBK = heads.logits(sets.x_RNC[0])
    found = heads.similarity(sets, torch.arange(IMAGES).unsqueeze(0), sets.y_RN, z_RBK, measure)
    weight_KC = heads.weight_RKC[0]
    if measure == "attribution":
        expected = attribution_cosine(maps_BCHW, weight_KC, y_B)
    else:
        cams_BKHW = torch.einsum("kc,bchw->bkhw", weight_KC, maps_BCHW)
        expected = similarity_to_true(cams_BKHW, y_B, measure=measure.removeprefix("cam_"))  # type: ignore[arg-type]
    others = F.one_hot(y_B, CLASSES) == 0
    torch.testing.assert_close(found[0][others], expected[others])


def librarys_weights(objective: Objective, linear: nn.Linear, maps: Tensor, y_N: Tensor) -> Tensor:
    """The same two epochs by the library's objective, with torch's SGD."""
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(3)
    for epoch in range(2):
        objective.begin_epoch(epoch, 2)
        order_N = torch.randperm(IMAGES, generator=generator)
        lr = 0.5 * (1 + torch.cos(torch.tensor(epoch / 2 * torch.pi)))
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        places = (order_N,) if objective.wants_indices else ()
        objective(maps[order_N], y_N[order_N], *places)["loss"].backward()
        optimizer.step()
    return linear.weight.detach()


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("label smoothing", {"mass": 0.1}),
        ("PS-KD", {"alpha": 0.8}),
        ("own, even", {"alpha": 0.8}),
        ("own, attribution", {"kappa": 0.5}),
        ("own, even, guarded", {"alpha": 0.8}),
        ("own, attribution, guarded", {"kappa": 0.5}),
        ("own, class attribution", {"kappa": 0.5}),
        ("own, past x attribution", {"rho": 0.25}),
        ("own, past x even", {"rho": 0.75}),
        ("average, even", {"alpha": 0.8}),
    ],
)
def test_a_head_learns_as_by_the_librarys_objective(
    sets: TrainingSets, name: str, knobs: dict[str, float]
) -> None:
    found = train_heads(
        FORMS[name], knobs, sets, num_classes=CLASSES, epochs=2, lr=1.0, decay=0.01, seeds=[3]
    )
    linear = nn.Linear(FEATURES, CLASSES)
    start = Heads(
        FORMS[name], knobs, num_classes=CLASSES, num_features=FEATURES, num_images=IMAGES, seeds=[3]
    )
    with torch.no_grad():
        linear.weight.copy_(start.weight_RKC[0])
        linear.bias.zero_()
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    objective: Objective
    if name == "label smoothing":  # the library spreads it over all classes, the true one as well
        objective = LabelSmoothing(model, smoothing=0.1 * CLASSES / (CLASSES - 1))
    elif name == "PS-KD":
        objective = PSKD(model, num_images=IMAGES, num_classes=CLASSES, alpha=0.8)
    else:
        form = FORMS[name]
        objective = OwnMass(
            model,
            num_images=IMAGES,
            alpha=0.8,
            kappa=1.0 if form.spread == "geometric" else knobs.get("kappa", 0.0),
            rho=knobs.get("rho", 1.0),
            aggregation="class" if form.spread == "class_attribution" else "instance",
            guard=form.loss == "guarded",
            mass_from="average" if form.mass == "average" else "last_epoch",
        )
    maps = sets.maps_MCP.reshape(IMAGES, FEATURES, 2, 2)
    expected = librarys_weights(objective, linear, maps, sets.y_RN[0])
    torch.testing.assert_close(found.weight_RKC[0], expected, rtol=1e-4, atol=1e-5)


def test_own_mass_learns_the_weights_that_the_likelihood_finds() -> None:
    """Those of Test 0, for the training images that the last epoch got wrong."""
    torch.manual_seed(0)
    head = nn.Linear(FEATURES, CLASSES)
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    objective = OwnMass(model, num_images=IMAGES, kappa="learned", alpha=0.0)
    x_NCHW, y_N = torch.rand(IMAGES, FEATURES, 2, 2), torch.arange(IMAGES) % CLASSES
    objective.begin_epoch(0, 2)
    logits_NK = torch.cat(
        [objective(x_NCHW[i], y_N[i], i)["output"] for i in torch.arange(IMAGES).split(16)]
    ).detach()
    objective.begin_epoch(1, 2)
    named_N = logits_NK.argmax(1)
    wrong_N = named_N != y_N
    similarity_NK = attribution_cosine(x_NCHW, head.weight.detach(), named_N)
    terms_NKT = torch.stack(
        [standardized_similarity(s.double(), named_N) for s in (logits_NK, similarity_NK)], dim=2
    )
    # The library's prior, a normal one of precision 1, is not Test 0's.
    asked = terms_NKT[wrong_N], named_N[wrong_N], y_N[wrong_N]
    weights_T = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        weights_T.grad = None
        value = weights_T.square().sum() / 2
        value = value - log_likelihood(asked[0], weights_T, *asked[1:]).sum()
        value.backward()
        return value

    torch.optim.LBFGS([weights_T], max_iter=100, tolerance_grad=1e-10).step(loss)
    assert objective.learned is not None
    torch.testing.assert_close(objective.learned.weights_T, weights_T.detach().float())
    others_MK = ~F.one_hot(asked[1], CLASSES).bool()
    apart_MKT = asked[0] - asked[0].gather(1, asked[2][:, None, None].expand(-1, 1, 2))
    found_T = fit_weights(apart_MKT[others_MK].reshape(-1, CLASSES - 1, 2), penalty=0.0)
    torch.testing.assert_close(found_T, fit(*asked), rtol=1e-3, atol=1e-4)  # L-BFGS is as near
    found_T.requires_grad_()
    (slope_T,) = torch.autograd.grad(log_likelihood(asked[0], found_T, *asked[1:]).sum(), found_T)
    torch.testing.assert_close(slope_T, torch.zeros_like(slope_T), rtol=0, atol=1e-9)


def test_heads_side_by_side_are_heads_alone(sets: TrainingSets) -> None:
    """What one head learns does not depend on which others are trained with it."""
    doubled = TrainingSets(
        **{
            field.name: value if field.name == "maps_MCP" else torch.cat([value, value])
            for field in dataclasses.fields(sets)
            for value in [getattr(sets, field.name)]
        }
    )
    how = {"num_classes": CLASSES, "epochs": 2, "lr": 1.0, "decay": 0.0}
    both = train_heads(FORMS["own, learned"], {}, doubled, seeds=[3, 4], **how)  # type: ignore[arg-type]
    alone = train_heads(FORMS["own, learned"], {}, sets, seeds=[4], **how)  # type: ignore[arg-type]
    torch.testing.assert_close(both.weight_RKC[1], alone.weight_RKC[0])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_learns(sets: TrainingSets, name: str) -> None:
    form = FORMS[name]
    sets.maps_MCP = sets.maps_MCP.half()
    heads = train_heads(
        form, form.settings[0], sets, num_classes=CLASSES, epochs=3, lr=1.0, decay=0.0, seeds=[0]
    )
    assert heads.weight_RKC.isfinite().all()
    start = Heads(
        form, {}, num_classes=CLASSES, num_features=FEATURES, num_images=IMAGES, seeds=[0]
    )
    assert not torch.equal(heads.weight_RKC, start.weight_RKC)


def test_every_seed_draws_its_own_images_of_each_class() -> None:
    labels = torch.arange(40) % 4
    features = {
        "pool_maps": torch.rand(40, 3, 2).half(),
        "pool_labels": labels,
        "pool_mirrored": torch.rand(40, 3),
        "validation": torch.rand(8, 3),
        "validation_labels": torch.arange(8) % 4,
        "test": torch.rand(8, 3),
        "test_labels": torch.arange(8) % 4,
    }
    drawn = Laboratory(features, per_class=3).draw([0, 1])
    assert drawn.y_RN[0].bincount().tolist() == [3, 3, 3, 3]
    assert set(drawn.index_RN[0].tolist()) != set(drawn.index_RN[1].tolist())


def test_the_table_pairs_a_form_with_its_control() -> None:
    def row(name: str, accuracy: list[float]) -> dict[str, object]:
        nothing = {"nll": [1.0] * 3, "scaled_nll": [1.0] * 3, "ece": [1.0] * 3}
        setting = {"knobs": {}, "lr": 1.0, "decay": 0.1, "epochs": 2, "seeds": [0, 1, 2]}
        return {"form": name, "accuracy": accuracy, **nothing, **setting}

    made = table(
        [
            row("plain", [1.0, 2.0, 3.0]),
            row("own, attribution", [3.0, 4.1, 5.2]),
            row("own, attribution, permuted", [2.0, 3.0, 4.0]),
        ]
    )
    line = next(line for line in made.splitlines() if line.startswith("| own, attribution |"))
    assert "+2.10" in line
    assert "+1.10" in line


def asked_of(true_M: Tensor, told_MK: Tensor) -> Asked:
    noise = torch.randn(len(true_M), 6, generator=torch.Generator().manual_seed(2))
    named_M = (true_M + 1) % 6
    return Asked(
        logits_MK=noise,
        named_M=named_M,
        true_M=true_M,
        similarities={
            "head weights": noise.roll(1, 0),
            "telling": told_MK,
            "idle": noise.roll(2, 0),
        },
    )


def test_a_similarity_that_knows_the_label_gains_likelihood_and_noise_does_not() -> None:
    true_M = torch.arange(600) % 6
    told_MK = F.one_hot(true_M, 6) + torch.randn(600, 6, generator=torch.Generator().manual_seed(3))
    found = verdicts(asked_of(true_M, told_MK))
    telling, idle = found["telling"], found["idle"]
    over = "logits and head weights"
    assert telling[f"gain over {over}"] > 5 * telling[f"standard error, {over}"]
    assert telling["gain over both, shuffled"] < 0.01
    assert abs(idle[f"gain over {over}"]) < 0.01
    assert found["logits"]["log_likelihood"] == pytest.approx(-math.log(5), abs=0.02)


def test_the_fit_is_that_of_the_highest_likelihood() -> None:
    """By brute force over a grid."""
    true_M = torch.arange(300) % 6
    named_M = (true_M + 1) % 6
    terms = F.one_hot(true_M, 6) + torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
    terms_MKT = terms.double().unsqueeze(2)
    (found,) = fit(terms_MKT, named_M, true_M)
    grid = torch.linspace(-1, 3, 801, dtype=torch.float64)
    values = torch.stack(
        [log_likelihood(terms_MKT, w.reshape(1), named_M, true_M).mean() for w in grid]
    )
    assert float(found) == pytest.approx(float(grid[values.argmax()]), abs=0.006)


def scores(accuracy: float, nll: float, scaled: float) -> dict[str, list[float]]:
    noise = (0.0, 0.01, -0.02, 0.015, -0.005)
    values = {"accuracy": accuracy, "nll": nll, "nll_scaled": scaled}
    return {name: [value + (value - 0.5) * e / 10 for e in noise] for name, value in values.items()}


@pytest.mark.parametrize(
    ("accuracy", "nll", "scaled", "verdict"),
    [
        (52.0, 1.0, 0.9, True),
        (50.5, 1.0, 0.9, False),  # above label smoothing, not above PS-KD
        (52.0, 1.2, 0.9, False),
        (52.0, 1.0, 1.1, False),
    ],
)
def test_a_target_wins_by_accuracy_over_both_rivals_at_no_cost_in_nll(
    accuracy: float, nll: float, scaled: float, verdict: bool
) -> None:
    found = {
        "standard": scores(49.0, 1.2, 1.0),
        "label_smoothing": scores(50.0, 1.3, 1.0),
        "ps_kd": scores(51.0, 1.0, 0.9),
        "own_mass, even": scores(accuracy, nll, scaled),
    }
    assert wins(found, "own_mass, even") is verdict


def test_settings_pair_what_all_objectives_have_finished(tmp_path: Path) -> None:
    rows = [
        {"objective": name, "seed": seed, "accuracy": 50.0 + seed, "nll": 1.0, "nll_scaled": 0.9}
        for name in ("standard", "own_mass:kappa=0,cap=0.1", "own_mass:kappa=0.5,control=permuted")
        for seed in ((2, 0, 1) if name == "standard" else (0, 2))
    ]
    (tmp_path / "dtd10").mkdir()
    (tmp_path / "dtd10" / "results.json").write_text(json.dumps({"rows": rows}))
    found = read_settings(tmp_path)["dtd10"]
    assert {name: one["accuracy"] for name, one in found.items()} == {
        "standard": [50.0, 52.0],
        "own_mass, even": [50.0, 52.0],
        "own_mass, permuted": [50.0, 52.0],
    }
    with pytest.raises(InputError, match="holds no results"):
        read_settings(tmp_path / "dtd10")
