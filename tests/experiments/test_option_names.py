"""Options that have another name than in version 0.1.0: the former one is still read everywhere."""

import dataclasses
import json

import pytest
import tyro
from torch import nn

from selfexplain.errors import InputError
from selfexplain.experiments.explain.explain import _objective_options
from selfexplain.experiments.objectives import resolve
from selfexplain.experiments.options import TrainConfig, to_dict
from selfexplain.introspection import Introspective
from selfexplain.objectives.options import ObjectiveOptions

SPECS = ["introspective:every=3", "introspective:map_interval=3"]
FLAGS = ["--introspective.every", "--introspective.map-interval"]


def trained(*words: str) -> TrainConfig:
    return tyro.cli(TrainConfig, args=["--data", "digits", *words])


def test_specs_flags_and_calls_take_both_names() -> None:
    found = [resolve(spec, ObjectiveOptions()) for spec in SPECS]
    assert found[0] == found[1]
    assert found[0][1]["map_interval"] == 3
    assert {trained(flag, "3").options.introspective.map_interval for flag in FLAGS} == {3}
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for name in ("every", "map_interval"):
        assert Introspective(model, **{name: 3}).period == 3


def test_both_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="gives an option twice"):
        resolve("introspective:every=3,map_interval=3", ObjectiveOptions())
    with pytest.raises(InputError, match="every and map_interval are one; pass map_interval"):
        Introspective(nn.Flatten(), every=3, map_interval=3)


def test_a_run_is_recorded_and_read_as_it_was() -> None:
    """The record, by which a run is known again, says `every`; so it did in version 0.1.0."""
    config = trained("--objective", "mixup+introspective", FLAGS[1], "3")
    record = to_dict(config, leave_out=("out", "resume"))
    assert record["options"]["introspective"]["every"] == 3
    assert "map_interval" not in json.dumps(record)
    assert list(record["options"]["introspective"])[-2:] == ["every", "control"]
    read = _objective_options(record)
    assert read.introspective == config.options.introspective
    assert read == dataclasses.replace(ObjectiveOptions(), introspective=read.introspective)


def test_options_that_came_later_leave_the_records_of_runs_without_them_alone() -> None:
    """What such a run is known again by is what version 0.1.0 wrote."""
    plain = trained("--objective", "own_mass:kappa=0")
    record = to_dict(plain, leave_out=("out", "resume"))
    before = {"alpha": 0.8, "kappa": 1.0, "cap": 1.0, "control": "none"}
    assert record["options"] == {"own_mass": before}
    assert _objective_options(record) == ObjectiveOptions()
    mixed = to_dict(trained("--objective", "cutmix+standard"))["options"]["cutmix"]
    assert mixed == {"alpha": 1.0, "probability": 1.0}
    flags = ("--own-mass.kappa", "learned", "--own-mass.rho", "0.5", "--own-mass.guard")
    formed = trained("--objective", "own_mass", *flags)
    record = to_dict(formed, leave_out=("out", "resume"))
    assert record["options"]["own_mass"] == {
        **before,
        "kappa": "learned",
        "guard": True,
        "rho": 0.5,
    }
    assert _objective_options(record) == formed.options
    spec = "own_mass:kappa=learned,rho=0.5,guard=true"
    assert resolve(spec, ObjectiveOptions()) == resolve("own_mass", formed.options)
    with pytest.raises(InputError, match="kappa of own_mass is 'high'; pass a number, or learned"):
        resolve("own_mass:kappa=high", ObjectiveOptions())
