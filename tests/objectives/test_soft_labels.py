"""Tf-KD, online and Zipf's label smoothing, held to plain second formulations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.experiments.objectives import build_objective, resolve
from selfexplain.models import build_model
from selfexplain.objectives import ObjectiveContext, OnlineLabelSmoothing, TfKD, ZipfLabelSmoothing
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.objectives.zipf import zipf_of_votes

K = 5


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("small_cnn", num_classes=K, in_channels=1).double()


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 4, 0])


def softmax(values: list[float]) -> list[float]:
    e = [math.exp(v) for v in values]
    return [v / sum(e) for v in e]


def cross_entropy(z: Tensor, y: Tensor) -> float:
    return -sum(math.log(softmax(r)[c]) for r, c in zip(z.tolist(), y.tolist(), strict=True)) / len(
        y
    )


def mean_kl(q: list[list[float]], p: list[list[float]]) -> float:
    rows = zip(q, p, strict=True)
    return sum(a * math.log(a / b) for s, t in rows for a, b in zip(s, t, strict=True)) / len(q)


def test_virtual_teacher_by_definition() -> None:
    out = TfKD(make_model(), alpha=0.3, temperature=2.0, correct=0.9)(X, Y)
    z = out["output"]
    u = [[0.9 if c == y else 0.1 / (K - 1) for c in range(K)] for y in Y]
    taught = mean_kl([softmax([v / 2 for v in row]) for row in u], [softmax(r) for r in z.tolist()])
    assert out["loss"].item() == pytest.approx(0.7 * cross_entropy(z, Y) + 0.3 * taught, rel=1e-9)


def test_trained_teacher_by_definition_and_left_as_it_is() -> None:
    teacher = make_model(1)
    objective = TfKD(make_model(), teacher, alpha=0.3, temperature=2.0).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    out = objective(X, Y)
    z, t = out["output"], make_model(1).eval()(X)
    halves = [[softmax([v / 2 for v in row]) for row in w.tolist()] for w in (t, z)]
    expected = 0.7 * cross_entropy(z, Y) + 0.3 * 4 * mean_kl(*halves)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-9)
    out["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_tf_kd_takes_its_teacher_from_the_run() -> None:
    context = ObjectiveContext(
        num_classes=K, image_shape=(1, 8, 8), num_images=9, make_model=make_model
    )
    options = ObjectiveOptions()
    virtual = build_objective("tf_kd:alpha=0.2", make_model(), options, context)
    assert isinstance(virtual, TfKD)
    assert (virtual.alpha, virtual.temperature, virtual.teacher) == (0.2, 20.0, None)
    assert TfKD.teacher_spec(resolve("tf_kd", options)[1]) is None
    assert TfKD.teacher_spec(resolve("tf_kd:teacher=self", options)[1]) == "standard"
    for spec, message in {
        "tf_kd:teacher=self": "needs a trained model",
        "tf_kd:teacher=other": "teacher is 'other'; pass one of virtual, self",
        "tf_kd:alpha=high": "pass a number",
    }.items():
        with pytest.raises(InputError, match=message):
            build_objective(spec, make_model(), options, context)
    with pytest.raises(InputError, match="correct belongs to the virtual teacher"):
        TfKD(make_model(), make_model(), correct=0.9)


def test_online_soft_labels_are_the_right_predictions_of_the_epoch_before() -> None:
    """The model is a table of logits; class 4 is never predicted right, class 3 only once."""
    objective = OnlineLabelSmoothing(nn.Flatten(), num_classes=K, alpha=0.3).double()
    generator = torch.Generator().manual_seed(0)
    soft = [[1 / K] * K for _ in range(K)]
    for epoch in range(3):
        objective.begin_epoch(epoch, 3)
        right: list[list[list[float]]] = [[] for _ in range(K)]
        for _ in range(3):
            z = torch.randn(6, K, generator=generator, dtype=torch.float64)
            z[4, 0] = 9.0
            p = [softmax(row) for row in z.tolist()]
            expected = 0.3 * cross_entropy(z, Y)
            for row, y in zip(p, Y.tolist(), strict=True):
                expected -= (
                    0.7 * sum(s * math.log(v) for s, v in zip(soft[y], row, strict=True)) / 6
                )
                if row.index(max(row)) == y:
                    right[y].append(row)
            assert objective(z, Y)["loss"].item() == pytest.approx(expected, rel=1e-6)
        soft = [list(np.mean(r, axis=0)) if r else [1 / K] * K for r in right]
        assert not right[4]
        assert any(right)


def test_online_label_smoothing_wants_to_know_of_epochs() -> None:
    objective = OnlineLabelSmoothing(make_model(), num_classes=K)
    with pytest.raises(InputError, match="begin_epoch"):
        objective(X, Y)


def test_zipf_target_by_scipys_ranks() -> None:
    votes = torch.randint(0, 4, (20, K), generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(20) % K
    ranks = rankdata(-votes.numpy(), axis=1, method="min")
    mass = np.where(np.eye(K, dtype=bool)[y], 0.0, ranks**-1.5)
    expected = torch.from_numpy(mass / mass.sum(axis=1, keepdims=True))
    torch.testing.assert_close(zipf_of_votes(votes, y, 1.5), expected)


def test_zipf_loss_by_letting_every_place_vote() -> None:
    model = make_model()
    with torch.no_grad():
        model.head.bias.copy_(torch.linspace(-0.05, 0.05, K))  # so that it takes part in the votes
    seen: list[Tensor] = []
    model.block3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    out = ZipfLabelSmoothing(model, weight=0.2)(X, Y)
    features, z = seen[-1], out["output"].tolist()
    expected = 0.0
    for i, y in enumerate(Y.tolist()):
        votes = [0] * K
        for place in features[i].flatten(1).T:
            votes[int(model.head(place).argmax())] += 1
        mass = [1 / (1 + sum(v > votes[c] for v in votes)) for c in range(K) if c != y]
        q = [m / sum(mass) for m in mass]
        p = softmax([z[i][c] for c in range(K) if c != y])
        expected += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True)) / 6
    assert out["zipf"].item() == pytest.approx(expected, rel=1e-9)
    total = cross_entropy(out["output"], Y) + 0.2 * expected
    assert out["loss"].item() == pytest.approx(total, rel=1e-9)


def test_zipf_refuses_a_model_without_places_and_two_classes() -> None:
    with pytest.raises(InputError, match="cam"):
        ZipfLabelSmoothing(nn.Sequential(nn.Flatten(), nn.Linear(64, K)).double())(X, Y)
    two = build_model("small_cnn", num_classes=2, in_channels=1).double()
    with pytest.raises(InputError, match="two classes"):
        ZipfLabelSmoothing(two)(X, Y % 2)
