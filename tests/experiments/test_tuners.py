"""Which options are free, and what tuners draw for them."""

import math
import statistics
import sys

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.experiments.compare.tune import OptunaTuner, RandomTuner, Tuner, draw
from selfexplain.experiments.objectives import (
    OBJECTIVES,
    free_options,
    lies_in,
    option_values,
    whole_numbers,
    with_options,
)
from selfexplain.objectives import Choice, Range
from selfexplain.objectives.options import ObjectiveOptions

TUNABLES = {
    "weight": Range(0.01, 1.0, log=True),
    "share": Range(0.2, 0.4),
    "steps": Range(1, 4),
    "shape": Choice("a", "b", "c"),
}
WHOLE = frozenset({"steps"})


@pytest.mark.parametrize(
    ("spec", "free"),
    [
        ("standard", []),
        ("introspective", ["weight"]),
        ("introspective:control=permuted", ["weight"]),
        ("introspective:control=permuted,weight=0.1", []),
        ("mixup:alpha=0.2+introspective", ["weight"]),
        ("mixup+introspective:weight=1e+3", ["mixup.alpha"]),
        ("mixup+standard", ["mixup.alpha"]),
        ("mixup+kd", ["mixup.alpha", "alpha", "temperature"]),
        ("mixup+kd:alpha=0.5", ["mixup.alpha", "temperature"]),
        ("cutmix:probability=1+mixup+standard", ["cutmix.alpha", "mixup.alpha"]),
    ],
)
def test_free_options_are_those_that_the_spec_leaves_open(spec: str, free: list[str]) -> None:
    assert list(free_options(spec)) == free


@pytest.mark.parametrize(
    ("spec", "options", "made"),
    [
        ("a", {}, "a"),
        ("a", {"weight": 0.0123456, "steps": 3, "on": True}, "a:weight=0.0123,steps=3,on=true"),
        ("a:shape=b", {"weight": 1.0}, "a:shape=b,weight=1"),
        ("mixup:alpha=1+a", {"weight": 0.5}, "mixup:alpha=1+a:weight=0.5"),
        (
            "mixup+a:b=1e+3",
            {"mixup.alpha": 0.5, "alpha": 0.2},
            "mixup:alpha=0.5+a:b=1e+3,alpha=0.2",
        ),
        ("cutmix+mixup:alpha=1+a", {"cutmix.alpha": 2.0}, "cutmix:alpha=2+mixup:alpha=1+a"),
    ],
)
def test_spec_with_options(spec: str, options: dict[str, object], made: str) -> None:
    assert with_options(spec, options) == made


@pytest.mark.parametrize("spec", [*OBJECTIVES, "cutmix+mixup+kd"])
def test_drawn_specs_of_every_objective_are_understood(spec: str) -> None:
    tunables, options = free_options(spec), ObjectiveOptions()
    whole = frozenset(whole_numbers(spec, options))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = draw(tunables, generator, whole)
        values = option_values(with_options(spec, drawn), options)
        for option, value in drawn.items():
            near = pytest.approx(value, rel=5e-3) if isinstance(value, float) else value
            assert values[option] == near
            assert lies_in(values[option], tunables[option])


def test_draws_fill_their_ranges_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(TUNABLES, generator, WHOLE) for _ in range(2000)]
    assert all(lies_in(each[name], t) for each in drawn for name, t in TUNABLES.items())
    exponents = [math.log10(each["weight"]) for each in drawn]
    assert statistics.fmean(exponents) == pytest.approx(-1, abs=0.05)
    assert statistics.pstdev(exponents) == pytest.approx(2 / math.sqrt(12), abs=0.03)
    assert statistics.fmean(each["share"] for each in drawn) == pytest.approx(0.3, abs=0.01)
    assert {each["steps"] for each in drawn} == {1, 2, 3, 4}
    counts = [sum(each["shape"] == shape for each in drawn) for shape in "abc"]
    assert min(counts) > 600


def test_random_trials_do_not_depend_on_how_many_there_are() -> None:
    ours, again = (RandomTuner("a", TUNABLES, WHOLE) for _ in range(2))
    first = [ours.propose(i) for i in range(1, 5)]
    assert [again.propose(i) for i in (4, 3, 2, 1)] == first[::-1]
    assert RandomTuner("b", TUNABLES, WHOLE).propose(1) != first[0]


def walked(tuner: Tuner, trials: int) -> list[float]:
    """Weights of a tuning whose best weight is 0.1."""
    weights = []
    tuner.tell(0, {"weight": 0.9, "share": 0.3, "steps": 1, "shape": "a"}, 0.0)
    for i in range(1, trials):
        options = tuner.propose(i)
        assert all(lies_in(options[name], t) for name, t in TUNABLES.items())
        weights.append(options["weight"])
        tuner.tell(i, options, 100 - abs(math.log10(options["weight"] / 0.1)))
    return weights


def test_optuna_learns_from_the_trials_before_and_repeats_itself() -> None:
    weights = walked(OptunaTuner("a", TUNABLES, WHOLE), 40)
    assert walked(OptunaTuner("a", TUNABLES, WHOLE), 40) == weights
    far = [abs(math.log10(weight / 0.1)) for weight in weights]
    assert statistics.fmean(far[20:]) < 0.6 * statistics.fmean(far[:4])


def test_defaults_outside_the_range_do_not_trouble_optuna() -> None:
    tuner = OptunaTuner("a", TUNABLES, WHOLE)
    tuner.tell(0, {"weight": 9.0, "share": 0.3, "steps": 1, "shape": "a"}, 80.0)
    assert lies_in(tuner.propose(1)["weight"], TUNABLES["weight"])


def test_optuna_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'selfexplain\[tune\]'"):
        OptunaTuner("a", TUNABLES, WHOLE)
