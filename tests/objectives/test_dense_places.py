"""Dense places, held to loops over images and places."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import class_maps
from selfexplain.models.build import SmallCNN
from selfexplain.objectives import DensePlaces
from selfexplain.objectives.dense_places import shuffled_places

K = 4
X = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 2, 3])


def objective(**options: object) -> DensePlaces:
    torch.manual_seed(0)
    model = SmallCNN(K, in_channels=1, width=4).double()
    return DensePlaces(model, (1, 16, 16), **options)  # type: ignore[arg-type]


def kl(teacher: Tensor, student: Tensor, temperature: float) -> float:
    p, q = ((z / temperature).softmax(dim=0).tolist() for z in (teacher, student))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_each_place_of_a_stage_learns_what_the_last_layer_sees_there() -> None:
    dense = objective(weight=0.7, temperature=2.0).eval()
    cams = class_maps(dense.model, X) + dense.model.head.bias.detach().view(1, -1, 1, 1)
    stages: dict[str, Tensor] = {}
    for stage in dense.staging.stages:
        module = dense.model.get_submodule(stage.name)
        module.register_forward_hook(
            lambda _m, _i, out, name=stage.name: stages.update({name: out})
        )
    logits = dense.model(X)
    out = dense(X, Y)
    torch.testing.assert_close(cams.mean(dim=(2, 3)), logits.detach())
    total, side = 0.0, cams.shape[2]
    for head, (stage, features) in zip(dense.heads, stages.items(), strict=True):
        cell = features.shape[2] // side
        assert cell in (2, 4), stage
        divergences = []
        for i in range(len(X)):
            for row in range(side):
                for column in range(side):
                    rows, columns = (slice(cell * j, cell * j + cell) for j in (row, column))
                    mean_C = features[i, :, rows, columns].mean(dim=(1, 2))
                    student = head.weight[:, :, 0, 0] @ mean_C + head.bias
                    divergences.append(kl(cams[i, :, row, column], student, 2.0))
        total += 4.0 * sum(divergences) / len(divergences)
    assert len(dense.heads) == 2
    assert out["places"].item() == pytest.approx(total, rel=1e-9)
    expected = F.cross_entropy(logits, Y).item() + 0.7 * total
    assert out["loss"].item() == pytest.approx(expected, rel=1e-9)


def test_the_maps_teach_and_do_not_learn() -> None:
    """What the last block and the head learn comes from the labels alone."""
    dense, plain = objective(weight=5.0), objective(weight=0.0)
    for each in (dense, plain):
        each(X, Y)["loss"].backward()
    for name in (
        "head.weight",
        "head.bias",
        *(f"block3.{n}" for n, _ in dense.model.block3.named_parameters()),
    ):
        ours, theirs = (each.model.get_parameter(name).grad for each in (dense, plain))
        torch.testing.assert_close(ours, theirs)
    first = [next(each.model.block1.parameters()).grad for each in (dense, plain)]
    assert not torch.allclose(*first)


def test_shuffled_places_keep_their_classes_together() -> None:
    maps = torch.randn(2, K, 3, 3)
    found = shuffled_places(maps, torch.Generator().manual_seed(0))
    for i in range(2):
        before = {tuple(place) for place in maps[i].flatten(1).T.tolist()}
        assert {tuple(place) for place in found[i].flatten(1).T.tolist()} == before
    assert not torch.equal(found, maps)


def test_each_step_of_training_shuffles_anew_and_evaluation_does_not_count() -> None:
    dense = objective(control="shuffled", weight=1.0)
    dense.model.eval()  # so that nothing else changes
    with torch.no_grad():
        before = [float(dense(X, Y)["places"]) for _ in range(2)]
    steps = [float(dense(X, Y)["places"].detach()) for _ in range(2)]
    assert before == [steps[0], steps[0]]
    assert steps[0] != steps[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight is -1; pass a number of at least 0"),
        ({"temperature": 0.0}, "temperature is 0; pass a number of at least 0.01"),
        ({"control": "permuted"}, "control is 'permuted'; pass one of none, shuffled"),
        ({"layers": ["blok1"]}, "layer 'blok1' is not in the model"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(**options)


def test_a_model_without_class_activation_maps_is_refused() -> None:
    flat = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(),
        nn.Linear(144, K),
    ).double()  # fmt: skip
    dense = DensePlaces(flat, (1, 16, 16))
    with pytest.raises(
        InputError, match=r"kind 'cam' needs .*; pass such a model, or objective byot"
    ):
        dense(X, Y)
