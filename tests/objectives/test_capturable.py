"""Objectives whose steps are recorded and replayed: what that asks of them, without a GPU.

A replay repeats the work of the device alone (training/steps.py). So such a step decides
nothing by values, draws nothing on the CPU, and finds and leaves its memory where it was.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from tests.objectives.test_contract import CLASSES, SPECS, arguments, build, make, steps
from torch import Tensor, nn

from selfexplain.explanations import class_maps
from selfexplain.models.resnet import FastCNN
from selfexplain.objectives import Objective, Standard
from selfexplain.training.steps import CompiledParts, is_capturable, parts_of

NOT_CAPTURABLE = {
    "saliency_guided",
    "cgc",
    "cgc:layer=block2",
    "dense_places:control=shuffled",
    "distil_part",
    "distil_part:part=permuted",
    "distil_part:part=class_mean",
    "distil_part:part=similarity",
    "introspective:control=permuted",
    "introspective:aggregation=class,map_interval=3,ramp_steps=4",
}
CAPTURABLE = [
    s for s in SPECS if s not in NOT_CAPTURABLE and not s.startswith(("aux", "mix", "cut"))
]


def begun(spec: str) -> Objective:
    """The objective after as many steps as are not recorded."""
    objective = make(spec)
    steps(objective, 2)
    return objective


def tensors(objective: Objective) -> dict[str, Tensor]:
    state = objective.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("spec", sorted(NOT_CAPTURABLE))
def test_others_say_so(spec: str) -> None:
    assert not begun(spec).capturable


@pytest.mark.parametrize("spec", CAPTURABLE)
def test_memory_stays_where_it_is(spec: str) -> None:
    objective = begun(spec)
    assert objective.capturable
    before = {name: value.data_ptr() for name, value in tensors(objective).items()}
    random_state = torch.get_rng_state()
    steps(objective, 2, first=2)
    assert {name: value.data_ptr() for name, value in tensors(objective).items()} == before
    assert torch.equal(torch.get_rng_state(), random_state)


SIX = ("standard", "label_smoothing", "ps_kd", "own_mass:kappa=0", "own_mass", "introspective")


@pytest.mark.parametrize("spec", SIX)
def test_fast_cnn_is_captured_in_parts_that_leave_its_maps_readable(spec: str) -> None:
    """Its steps are recorded, its four blocks compiled, and its head is found for class maps."""
    model = FastCNN(CLASSES, 1, widths=(4, 6, 6, 8))
    objective = build(spec, model)
    assert [type(part).__name__ for part in parts_of(model)] == ["Sequential", *["FastBlock"] * 3]
    x, y, index = torch.randn(4, 1, 16, 16), torch.arange(4), torch.arange(4)
    batch = (x, y, index) if objective.wants_indices else (x, y)
    twin = copy.deepcopy(objective)  # some remember what they saw
    for each in (objective, twin):
        each.begin_epoch(0, epochs=2)
    plain = objective(*batch)["loss"]
    assert is_capturable(objective)
    with CompiledParts(twin, backend="eager").used():
        torch.testing.assert_close(twin(*batch)["loss"], plain)
    maps_BKHW = class_maps(model.eval(), x)
    logits_BK = maps_BKHW.mean((2, 3)) + model.head.bias
    torch.testing.assert_close(logits_BK, model(x))


@pytest.mark.parametrize("spec", CAPTURABLE)
def test_nothing_is_decided_by_values(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device tensors have no values, and asking for one is an error."""
    objective = begun(spec)
    autocast = torch.autocast

    def for_meta(device_type: str, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == "meta" else autocast(device_type, **options)

    monkeypatch.setattr(torch, "autocast", for_meta)  # which does not know the device
    objective.to("meta")
    out = objective(*(each.to("meta") for each in arguments(objective)))
    out["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


def test_a_decision_by_values_would_be_found() -> None:
    class Undecided(Standard):
        def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
            return super().forward(x_BCHW if x_BCHW.sum() > 0 else -x_BCHW, y_B)

    objective = Undecided(nn.Sequential(nn.Flatten(), nn.Linear(64, 5))).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        objective(*(each.to("meta") for each in arguments(objective)))
