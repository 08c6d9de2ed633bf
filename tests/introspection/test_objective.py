"""The introspective objective: its losses by definition, its schedule, its controls."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.two_processes import start_two
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import class_maps
from selfexplain.introspection import Introspective
from selfexplain.introspection.target import (
    RunningClassMean,
    attribution_cosine,
    similarity_to_true,
    softmax_target,
    zipf_target,
)
from selfexplain.models import build_model
from selfexplain.objectives import LabelSmoothing, Standard

CLASSES = 6
X = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % CLASSES


def small() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", num_classes=CLASSES, in_channels=1)


def test_non_true_form_by_definition() -> None:
    options = {"form": "non_true", "weight": 0.7, "similarity": "votes", "shape": "zipf"}
    model = small()
    out = Introspective(model, **options)(X, Y)
    z = out["output"]
    q = zipf_target(similarity_to_true(class_maps(model, X), Y, measure="votes"), Y)
    expected = F.cross_entropy(z, Y)
    for b, y in enumerate(Y.tolist()):
        others = [c for c in range(CLASSES) if c != y]
        log_r = z[b, others].log_softmax(dim=0)
        expected = expected + 0.7 / 12 * (q[b, others] * (q[b, others].log() - log_r)).sum()
    torch.testing.assert_close(out["loss"], expected)


def test_attribution_reads_the_pooled_features_and_the_head() -> None:
    model = small()
    features = []
    hook = model.block3.register_forward_hook(lambda m, i, o: features.append(o.detach()))
    model(X)
    hook.remove()
    q = zipf_target(attribution_cosine(features[0], model.head.weight.detach(), Y), Y)
    assert torch.equal(Introspective(small()).soft_target(X, Y), q)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"similarity": "votes", "centre": True},
        {"kind": "gradient"},
        {"aggregation": "class"},
        {"control": "permuted"},
        {"control": "uniform"},
        {"control": "logits"},
    ],
)
def test_the_soft_target_is_made_of_the_similarities_that_are_told(options: dict) -> None:
    objective = Introspective(small(), **options)
    objective(X, Y)
    objective.eval()
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    s = objective.similarity(X, Y)
    assert torch.equal(objective.target_of(s, Y), objective.soft_target(X, Y))
    assert not s.requires_grad
    assert all(torch.equal(v, before[name]) for name, v in objective.model.state_dict().items())
    if "kind" in options:
        maps = class_maps(objective.model, X, kind="gradient")
        torch.testing.assert_close(s, similarity_to_true(maps, Y))


def test_attribution_of_another_layer_is_refused() -> None:
    with pytest.raises(InputError, match="pass similarity cosine"):
        Introspective(small(), kind="grad_cam", similarity="attribution")


def test_mixed_form_by_definition() -> None:
    model = small()
    out = Introspective(
        model, form="mixed", shape="softmax", similarity="cosine", tau=0.5, mass_value=0.2
    )(X, Y)
    q = softmax_target(similarity_to_true(class_maps(model, X), Y), Y, 0.5)
    target = 0.8 * F.one_hot(Y, CLASSES) + 0.2 * q
    log_p = out["output"].log_softmax(dim=1)
    torch.testing.assert_close(out["loss"], -(target * log_p).sum(dim=1).mean())


def test_own_mass_is_the_models_non_true_probability() -> None:
    model = small()
    out = Introspective(model, form="mixed", mass="own", mass_value=1.0, control="uniform")(X, Y)
    p = out["output"].softmax(dim=1).detach()
    mass = 1 - p[torch.arange(12), Y]
    uniform = (1 - F.one_hot(Y, CLASSES)) / (CLASSES - 1)
    target = (1 - mass)[:, None] * F.one_hot(Y, CLASSES) + mass[:, None] * uniform
    torch.testing.assert_close(
        out["loss"], -(target * out["output"].log_softmax(dim=1)).sum(dim=1).mean()
    )


def gradients(objective: nn.Module) -> list[Tensor]:
    objective(X, Y)["loss"].backward()
    return [p.grad for p in objective.parameters()]


def test_uniform_control_is_label_smoothing() -> None:
    smoothing = 0.2
    ours = Introspective(
        small(), form="mixed", control="uniform", mass_value=smoothing * (CLASSES - 1) / CLASSES
    )
    for a, b in zip(gradients(ours), gradients(LabelSmoothing(small(), smoothing)), strict=True):
        torch.testing.assert_close(a, b)


def test_target_is_detached() -> None:
    """The gradient is that of a constant target: none flows through the explanations."""
    model = small()
    objective = Introspective(model, form="mixed", shape="softmax", similarity="cosine", tau=0.1)
    found = gradients(objective)
    twin = small()
    q = softmax_target(similarity_to_true(class_maps(twin, X), Y), Y, 0.1)
    target = (0.9 * F.one_hot(Y, CLASSES) + 0.1 * q).detach()
    F.cross_entropy(twin(X), target).backward()
    for a, p in zip(found, twin.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def train_losses(objective: Introspective, steps: int) -> list[tuple[float, float]]:
    """(loss, cross-entropy) of each step."""
    pairs = []
    for _ in range(steps):
        out = objective(X, Y)
        pairs.append((out["loss"].item(), out["cross_entropy"].item()))
    return pairs


def test_warm_up_then_ramp() -> None:
    pairs = train_losses(Introspective(small(), warmup_steps=2, ramp_steps=3), 8)
    extra = [loss - ce for loss, ce in pairs]
    assert extra[:2] == [0, 0]
    full = extra[-1]
    assert full > 0
    assert [e / full for e in extra[2:6]] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=1e-4)


def test_every_nth_step() -> None:
    pairs = train_losses(Introspective(small(), map_interval=3), 7)
    assert [loss > ce for loss, ce in pairs] == [True, False, False, True, False, False, True]


def test_running_mean_serves_the_steps_between() -> None:
    pairs = train_losses(Introspective(small(), map_interval=3, aggregation="class"), 7)
    assert all(loss > ce for loss, ce in pairs)


def test_class_aggregation_gives_one_target_a_class() -> None:
    objective = Introspective(small(), aggregation="class", momentum=0.5)
    objective(X, Y)
    q = objective.soft_target(X, Y)
    assert torch.equal(q[:CLASSES], q[CLASSES:])
    assert not torch.equal(q[0], q[1])


def test_running_class_mean_by_definition() -> None:
    mean = RunningClassMean(momentum=0.8)
    s = torch.randn(3, 4, 2)
    labels = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), torch.tensor([1, 1, 1, 1])]
    expected = {0: None, 1: None}
    for s_BK, y_B in zip(s, labels, strict=True):
        mean.update(s_BK, y_B)
        for k in (0, 1):
            if (y_B == k).any():
                new = s_BK[y_B == k].mean(dim=0)
                old = expected[k]
                expected[k] = new if old is None else 0.8 * old + 0.2 * new
    torch.testing.assert_close(mean(torch.tensor([0, 1])), torch.stack([expected[0], expected[1]]))


def test_permuted_control_keeps_the_values() -> None:
    model = small()
    true, permuted = Introspective(model), Introspective(model, control="permuted")
    a, b = true.soft_target(X, Y), permuted.soft_target(X, Y)
    torch.testing.assert_close(a.sort(dim=1).values, b.sort(dim=1).values)
    assert not torch.equal(a, b)


def test_logits_control_reads_the_logits() -> None:
    model = small()
    objective = Introspective(model, control="logits")
    target, logits = objective.soft_target(X, Y), model(X).detach()
    torch.testing.assert_close(target, zipf_target(logits, Y))


def test_weights_control_reads_the_head_alone() -> None:
    model = small()
    objective = Introspective(model, control="weights")
    q = objective.soft_target(X, Y)
    cosines = torch.cosine_similarity(model.head.weight[:, None], model.head.weight[None], dim=2)
    torch.testing.assert_close(q, zipf_target(cosines.detach()[Y], Y))
    assert torch.equal(q[:CLASSES], q[CLASSES:])


def test_weight_zero_is_standard_training_bit_for_bit() -> None:
    for a, b in zip(
        gradients(Introspective(small(), weight=0.0)), gradients(Standard(small())), strict=True
    ):
        assert torch.equal(a, b)


def test_explanation_of_a_named_early_layer_differs() -> None:
    model = small().eval()
    options = {"kind": "feature_x_gradient", "similarity": "cosine", "shape": "softmax"}
    late = Introspective(model, **options).soft_target(X, Y)
    early = Introspective(model, **options, layer="block1").soft_target(X, Y)
    assert (late - early).abs().max() > 1e-3


def test_cam_needs_a_pooled_linear_head() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    with pytest.raises(InputError, match="grad_cam"):
        Introspective(model)(X, Y)
    out = Introspective(model, kind="grad_cam")(X, Y)
    assert out["loss"].isfinite()


def test_layer_that_does_not_exist_lists_near_names() -> None:
    with pytest.raises(InputError, match="block2"):
        Introspective(small(), kind="grad_cam", layer="blok2")(X, Y)


@pytest.mark.parametrize(
    "options",
    [
        {"similarity": "attribution"},
        {"similarity": "cosine"},
        {"similarity": "votes"},
        {"control": "logits"},
        {"aggregation": "class"},
    ],
)
def test_bf16_autocast_knows_the_same_order(options: dict[str, str]) -> None:
    """Targets are made in float32: rounding moves features a little and makes no ties."""
    objective, exact = (Introspective(small(), **options, shape="softmax") for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = objective(X, Y)
        target = objective.soft_target(X, Y)
    out["loss"].backward()
    exact(X, Y)
    torch.testing.assert_close(target, exact.soft_target(X, Y), atol=5e-3, rtol=0.05)
    for row, y in zip(target, Y.tolist(), strict=True):
        others = [c for c in range(CLASSES) if c != y]
        assert len(set(row[others].tolist())) == CLASSES - 1


def test_class_not_seen_yet_gets_a_uniform_target() -> None:
    objective = Introspective(small(), aggregation="class", map_interval=2)
    seen = Y != 4
    objective(X[seen], Y[seen])
    q = objective.eval().soft_target(X, Y)
    expected = (torch.arange(CLASSES) != 4) / (CLASSES - 1)
    torch.testing.assert_close(q[Y == 4], expected.expand(2, CLASSES))


def test_evaluation_does_not_depend_on_the_beat() -> None:
    objective = Introspective(small(), map_interval=3)
    losses = []
    for _ in range(4):
        objective.eval()
        losses.append(objective(X, Y)["introspection"].item())
        objective.train()
        with torch.enable_grad():
            objective(X, Y)
    assert all(loss > 0 for loss in losses)


def test_soft_target_leaves_the_model_as_it_was_in_training_mode() -> None:
    objective = Introspective(small())
    before = {k: v.clone() for k, v in objective.model.state_dict().items()}
    rng = torch.get_rng_state()
    objective.soft_target(X, Y)
    assert all(torch.equal(v, before[k]) for k, v in objective.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert objective.steps == 0


@pytest.mark.parametrize("kind", ["cam", "gradient", "feature_x_gradient"])
def test_inference_mode(kind: str) -> None:
    objective = Introspective(small(), kind=kind).eval()
    expected = objective(X, Y)["loss"].item()
    with torch.inference_mode():
        assert objective(X.clone(), Y)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_two_classes_are_refused_where_nothing_can_be_taught() -> None:
    model = build_model("small_cnn", num_classes=2, in_channels=1)
    with pytest.raises(InputError, match="pass form mixed"):
        Introspective(model)(X, Y % 2)
    assert Introspective(model, form="mixed")(X, Y % 2)["loss"].isfinite()


def test_running_mean_goes_on_after_inference_mode_and_stays_in_float32() -> None:
    mean, y = RunningClassMean(0.5), torch.tensor([0])
    with torch.inference_mode():
        mean.update(torch.tensor([[1.0, 0.0]]), y)
    mean.update(torch.tensor([[0.0, 4.0]]), y)
    assert mean(y).tolist() == [[0.5, 2.0]]
    place = mean.mean_KK.data_ptr()
    mean.update(torch.tensor([[0.5, 2.0]]), y)
    assert mean.mean_KK.data_ptr() == place  # a recorded step writes there
    mean.half().update(torch.tensor([[0.5, 2.0]], dtype=torch.half), y)
    assert mean(y).dtype == torch.float32
    assert mean(y).tolist() == [[0.5, 2.0]]


def test_running_mean_of_two_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    s, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 3, 0, 0, 1, 3])
    whole = RunningClassMean(0.5)
    whole.update(s, y)
    start_two(_update_half, str(tmp_path), s, y)
    for rank in range(2):
        half = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(half, whole.mean_KK)


def _update_half(rank: int, folder: str, s: Tensor, y: Tensor) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mean = RunningClassMean(0.5)
    mean.update(s[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4])
    torch.save(mean.mean_KK, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer": "nope", "kind": "grad_cam"},
            "layer 'nope' is not in the model; .*, such as 'block1'",
        ),
        ({"layer": "block1"}, "'cam'"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_told_in_the_warm_up(
    options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Introspective(small(), warmup_steps=5, **options)(X, Y)


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 5}, {"control": "uniform"}])
@pytest.mark.parametrize(("classes", "message"), [(1, "has one class"), (2, "with two classes")])
def test_too_few_classes_are_told_at_once(options: dict, classes: int, message: str) -> None:
    model = build_model("small_cnn", num_classes=classes, in_channels=1)
    with pytest.raises(InputError, match=message):
        Introspective(model, **options)(X, Y.clamp_max(0))
