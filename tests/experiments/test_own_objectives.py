"""Objectives of the user's own, by `package.module:Class`."""

import json
import os
import sys
from pathlib import Path

import pytest
from tests.helpers.command_line import DIGITS, refused
from torch import nn

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.objectives import (
    build_objective,
    check_step,
    free_options,
    option_values,
    resolve,
    split_options,
    whole_numbers,
    with_options,
)
from selfexplain.launchers.local import worker_environment
from selfexplain.objectives import LabelSmoothing, Mixup, ObjectiveContext
from selfexplain.objectives.options import ObjectiveOptions

OWN = """
from torch import nn
from selfexplain.launchers.local import worker_environment
from selfexplain.objectives import LabelSmoothing, Objective, Range, Standard
from selfexplain.limits import check_in_range

class Focal(Objective):
    tunable = {"gamma": Range(0.5, 5.0)}

    def __init__(self, model, gamma: float = 2.0, rounds: int = 1, log=False):
        check_in_range("gamma", gamma, 0.0, 9.0)
        super().__init__(model)
        self.gamma, self.rounds, self.log = gamma, rounds, log

    def forward(self, x, y):
        logits = self.model(x)
        log_p = logits.log_softmax(1).gather(1, y[:, None])[:, 0]
        return {"loss": -((1 - log_p.exp()) ** self.gamma * log_p).mean(), "output": logits}

class Needs(Focal):
    def __init__(self, model, beta: float):
        super().__init__(model)

class Sized(Needs):
    @classmethod
    def from_context(cls, model, context, **options):
        return cls(model, beta=context.num_classes, **options)

class Outer:
    class Smooth(LabelSmoothing):
        pass

class Bare(Focal):
    def forward(self, x, y):
        return super().forward(x, y)["loss"]

class NoOutput(Focal):
    def forward(self, x, y):
        return {"loss": super().forward(x, y)["loss"]}

class Number(Focal):
    def forward(self, x, y):
        out = super().forward(x, y)
        return {**out, "loss": out["loss"].item()}

class Detached(Focal):
    def forward(self, x, y):
        out = super().forward(x, y)
        return {**out, "loss": out["loss"].detach()}

class Unreduced(Focal):
    def forward(self, x, y):
        out = super().forward(x, y)
        return {**out, "loss": out["output"].sum(1)}

class Crash(Focal):
    def forward(self, x, y):
        raise KeyError("oops")

class Broken(Objective):
    def __init__(self, model):
        raise RuntimeError("no")

class NoModel(Objective):
    def __init__(self, model):
        nn.Module.__init__(self)

class Module(nn.Module):
    pass

def function(model):
    return Focal(model)

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module own_losses, in which the command runs; nothing else names it."""
    (tmp_path / "own_losses.py").write_text(OWN)
    (tmp_path / "own_exits.py").write_text("import sys; sys.exit('used as a script')")
    (tmp_path / "own_fails.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    for name in ("own_losses", "own_exits", "own_fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def context() -> ObjectiveContext:
    return ObjectiveContext(num_classes=3, image_shape=(1, 2, 2), num_images=9, make_model=net)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def build(spec: str) -> object:
    return build_objective(spec, net(), ObjectiveOptions(), context())


def test_options_are_those_of_the_constructor(own: Path) -> None:
    objective = build("own_losses:Focal:gamma=1,rounds=3,log=true")
    assert (objective.gamma, objective.rounds, objective.log) == (1.0, 3, True)  # type: ignore[attr-defined]
    assert build("own_losses:Focal").gamma == 2.0  # type: ignore[attr-defined]
    assert build("own_losses:Needs:beta=0.5") is not None
    assert build("own_losses:Sized") is not None  # its from_context knows
    mixed = build("mixup+own_losses:Outer.Smooth:smoothing=0.2")
    assert isinstance(mixed, Mixup)
    assert isinstance(mixed.objective, LabelSmoothing)
    assert mixed.objective.smoothing == 0.2


def test_they_can_be_tuned(own: Path) -> None:
    spec, options = "own_losses:Focal", ObjectiveOptions()
    assert list(free_options(spec)) == ["gamma"]
    assert free_options(f"{spec}:gamma=1") == {}
    assert with_options(spec, {"gamma": 0.5}) == f"{spec}:gamma=0.5"
    assert with_options(f"{spec}:rounds=2", {"gamma": 0.5}) == f"{spec}:rounds=2,gamma=0.5"
    assert option_values(f"{spec}:rounds=2", options) == {"gamma": 2.0, "rounds": 2, "log": False}
    assert whole_numbers(spec, options) == {"rounds"}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("standard", ("standard", None)),
        ("standard:Mine", ("standard", "Mine")),  # a name of the library stays its own
        ("mixup:alpha=1", ("mixup", "alpha=1")),
        ("a.b:C", ("a.b:C", None)),
        ("a.b:C.D:x=1,y=2", ("a.b:C.D", "x=1,y=2")),
        ("introspectiv:weight=1", ("introspectiv", "weight=1")),
        ("a:", ("a", "")),
        ("a:C:", ("a:C", "")),
    ],
)
def test_a_spec_is_a_name_and_options(part: str, expected: tuple[str, str | None]) -> None:
    assert split_options(part) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_missing:Focal", "cannot be imported (No module named 'own_missing'); pass package"),
        ("own_losses:Focl", "(module own_losses has no Focl)"),
        ("own_losses:Focal.Inner", "(module own_losses has no Focal.Inner)"),
        ("own_losses.py:Focal", "No module named 'own_losses.py'"),
        ("./own_losses:Focal", "cannot be imported (TypeError"),
        ("own_exits:Focal", "cannot be imported (SystemExit: used as a script)"),
        ("own_fails:Focal", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("introspectiv:Mine", "(did you mean introspective?)"),
        ("own_losses:Module", "is not an objective (the class Module); pass a subclass of"),
        ("own_losses:function", "is not an objective (function); pass a subclass of"),
        ("own_losses:number", "is not an objective (int); pass a subclass of"),
        ("own_losses:Needs", "needs beta, without a default; pass own_losses:Needs:beta=VALUE"),
        ("own_losses:Focal:gama=1", "has no option 'gama=1'; pass gamma, as option=value"),
        ("own_losses:Focal:gamma", "gamma of own_losses:Focal has no value"),
        ("own_losses:Focal:rounds=0.5", "pass a whole number"),
        ("own_losses:Focal:log=1", "pass true or false"),
        ("own_losses:Focal:", "a separator without an option"),
        ("own_losses:Focal:gamma=1,gamma=2", "gives an option twice"),
        ("mixup+own_losses:Focal", "own_losses:Focal needs one class for each image"),
        ("own_losses:Focal+standard", "mixes no images; before a + pass mixup or cutmix"),
        ("own_losses:", "there is no objective 'own_losses'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_data_are_read(
    spec: str, message: str, own: Path
) -> None:
    with pytest.raises(InputError) as refusal:
        resolve(spec, ObjectiveOptions())
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Focal:gamma=10", "own_losses:Focal: gamma is 10; pass a number from 0 to 9"),
        ("Broken", "could not be built (RuntimeError: no)"),
        ("NoModel", "has no model; call super().__init__(model)"),
        ("Bare", "objective Bare returned a Tensor; it must return a dictionary"),
        ("NoOutput", "returned no 'output'"),
        ("Number", "returned a float as 'loss'"),
        ("Detached", "returned a detached loss"),
        ("Unreduced", "returned a loss of shape (2,)"),
        ("Crash", "cannot take a step (KeyError: 'oops')"),
    ],
)
def test_what_cannot_take_a_step_is_refused_before_training(
    name: str, message: str, own: Path
) -> None:
    spec = f"own_losses:{name}"
    with pytest.raises(InputError) as refusal:
        check_step(build(spec), spec, (1, 2, 2), 3)  # type: ignore[arg-type]
    assert message in str(refusal.value)


def test_workers_find_the_module_too(own: Path) -> None:
    resolve("own_losses:Focal", ObjectiveOptions())
    folders = worker_environment(0, 1, [], {})["PYTHONPATH"].split(os.pathsep)
    assert folders[-1] == str(own)  # after what is installed


def test_the_step_that_is_tried_leaves_nothing_behind(own: Path) -> None:
    objective = build("own_losses:Focal")
    before = {name: t.clone() for name, t in objective.state_dict().items()}  # type: ignore[attr-defined]
    check_step(objective, "own_losses:Focal", (1, 2, 2), 3)  # type: ignore[arg-type]
    assert all((t == before[n]).all() for n, t in objective.state_dict().items())  # type: ignore[attr-defined]
    assert all(p.grad is None for p in objective.parameters())  # type: ignore[attr-defined]


def test_the_command_line_trains_resumes_compares_and_explains(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = (*DIGITS, "--epochs", "1", "--out", "cmp")
    specs = ("--objectives", "standard", "own_losses:Focal:gamma=1")
    main(["compare", *shared, "--seeds", "0", *specs])
    run = own / "cmp" / "runs" / "own_losses_Focal_gamma-1-seed0"
    record = json.loads((run / "run.json").read_text())["config"]
    assert record["objective"] == "own_losses:Focal:gamma=1"
    capsys.readouterr()
    (run / "result.json").unlink()  # continued from its checkpoint
    main(["compare", *shared, "--seeds", "0", *specs])
    assert "own_losses:Focal:gamma=1" in capsys.readouterr().out
    main(["report", "cmp"])
    assert "own_losses:Focal:gamma=1" in (own / "cmp" / "report.html").read_text()
    # An explanation needs the classifier, and not what trained it.
    (own / "own_losses.py").unlink()
    monkeypatch.delitem(sys.modules, "own_losses")
    assert load_run(run).shape_CHW == (1, 8, 8)
    message = refused(capsys, "train", *DIGITS, "--objective", "own_losses:Focal", "--out", "out")
    assert "No module named 'own_losses'" in message
    assert not (own / "out").exists()
