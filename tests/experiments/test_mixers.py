"""Specs with mixers: how they nest, what is refused, and that whole runs know them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from selfexplain.errors import InputError
from selfexplain.experiments import objectives
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit.teacher import run_folder
from selfexplain.experiments.objectives import build_objective, resolve, teacher_spec_of
from selfexplain.experiments.options import CompareConfig, DataOptions
from selfexplain.objectives import CutMix, LabelSmoothing, Mixup, ObjectiveContext, Standard
from selfexplain.objectives.options import MixupOptions, ObjectiveOptions
from selfexplain.training import TrainingOptions


def build(spec: str, options: ObjectiveOptions | None = None, **more: Any) -> Any:
    context = ObjectiveContext(
        num_classes=3, image_shape=(1, 4, 4), num_images=9, make_model=lambda: nn.Linear(4, 3)
    )
    return build_objective(spec, nn.Linear(4, 3), options or ObjectiveOptions(), context, **more)


def test_mixers_nest_as_they_are_written_each_with_its_options() -> None:
    outer = build("mixup:alpha=1e+0,probability=0.5+cutmix:alpha=0.3+label_smoothing:smoothing=0.2")
    assert isinstance(outer, Mixup)
    assert (outer.alpha, outer.probability, outer.num_classes) == (1.0, 0.5, 3)
    assert isinstance(outer.objective, CutMix)
    assert outer.objective.alpha == 0.3
    assert isinstance(outer.objective.objective, LabelSmoothing)
    assert outer.objective.objective.smoothing == 0.2


def test_options_of_the_run_are_the_mixers_defaults() -> None:
    options = ObjectiveOptions(mixup=MixupOptions(alpha=0.2))
    assert build("mixup+standard", options).alpha == 0.2


def test_what_stands_beside_the_objective_is_inside_the_mixers() -> None:
    built = build("mixup+standard", wrap=lambda inner: CutMix(inner, 3, alpha=0.7))
    assert isinstance(built, Mixup)
    assert built.objective.alpha == 0.7
    assert isinstance(built.objective.objective, Standard)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixup", "mixup mixes images for another objective; pass it as mixup+standard"),
        ("cutmix+", "pass it as cutmix+standard"),
        ("mixup+cutmix", "pass it as cutmix+standard"),
        ("standard+mixup", "'standard' in 'standard+mixup' mixes no images; before a + pass mixup"),
        ("mixop+standard", "before a + pass mixup or cutmix"),
        ("mixup+standart", "pass standard"),
        ("mixup:aplha=1+standard", "mixup has no option 'aplha=1'; pass alpha"),
        ("mixup+introspective", "introspective needs one class for each image, and a mixed image"),
        ("mixup+introspective", "after mixup+ pass standard or label_smoothing"),
    ],
)
def test_bad_specs_are_named_before_anything_is_built(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        resolve(spec, ObjectiveOptions())


class Distilled(Standard):
    @classmethod
    def teacher_spec(cls, options: Mapping[str, Any]) -> str | None:
        return "label_smoothing"


def test_teacher_is_that_of_the_objective_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "taught", Distilled)
    assert teacher_spec_of("mixup+cutmix+taught", ObjectiveOptions()) == "label_smoothing"
    assert teacher_spec_of("mixup+standard", ObjectiveOptions()) is None


def test_folders_of_runs_are_distinct_and_legal_names() -> None:
    specs = (
        "mixup+standard",
        "mixup:alpha=0.2+standard",
        "mixup+label_smoothing:smoothing=0.2",
        "mixup+cutmix+standard",
        "cutmix+mixup+standard",
        "mixup+byot:layers=block1/block2",
    )
    names = {run_folder(Path("out"), spec, 0).name for spec in specs}
    assert len(names) == len(specs)
    assert "mixup_alpha-0.2+standard-seed0" in names
    assert not any(set(name) & set('/\\:*?"<>|=, ') for name in names)


def test_a_comparison_runs_them_and_a_run_can_be_explained(tmp_path: Path) -> None:
    config = CompareConfig(
        data=DataOptions(data="digits", train_size=60),
        objectives=("standard", "mixup+label_smoothing:smoothing=0.2", "cutmix+standard"),
        seeds=(0,),
        training=TrainingOptions(epochs=1, batch_size=30),
        out=tmp_path / "compare",
    )
    rows = run_comparison(config)["rows"]
    assert [row["objective"] for row in rows] == list(config.objectives)
    folder = run_folder(config.out, config.objectives[1], 0)
    saved = json.loads((folder / "run.json").read_text())["config"]["options"]
    assert saved.keys() == {"mixup", "label_smoothing"}
    assert load_run(folder).class_names[3] == "3"
