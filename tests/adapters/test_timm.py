"""Objectives as tasks of the real timm, and explained layers of real models of others."""

import doctest
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.helpers.later import Later
from torch import nn

from selfexplain import Introspective, class_maps
from selfexplain.errors import InputError
from selfexplain.objectives import LabelSmoothing, Mixup, Objective

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is an extra; make test installs it"
)
timm, transformers = Later("timm"), Later("transformers")
adapter, script = (Later(f"selfexplain.adapters.{name}") for name in ("timm", "timm_script"))
huggingface = Later("selfexplain.adapters.huggingface")

SIZE = 64


def of_timm(name: str) -> Callable[[], nn.Module]:
    size = {"img_size": SIZE} if name.startswith("vit") else {}
    return lambda: timm.create_model(name, num_classes=5, **size)


def of_transformers(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(num_labels=5, **options)
        return huggingface.Logits(getattr(transformers, f"{name}ForImageClassification")(config))

    return make


SMALL_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "timm resnet18": (of_timm("resnet18"), (2, 2)),
    "timm convnext": (of_timm("convnext_atto"), (2, 2)),
    "timm vit": (of_timm("vit_tiny_patch16_224"), (4, 4)),
    "timm mobilenet": (of_timm("mobilenetv3_small_050"), (2, 2)),
    "transformers resnet": (
        of_transformers("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
        (8, 8),
    ),
    "transformers convnext": (
        of_transformers("ConvNext", hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
        (2, 2),
    ),
    "transformers vit": (of_transformers("ViT", **SMALL_VIT), (4, 4)),
    "transformers mobilenet": (of_transformers("MobileNetV2", depth_multiplier=0.35), (2, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_layer_is_found_without_configuration(name: str) -> None:
    make, grid = MODELS[name]
    torch.manual_seed(0)
    maps = class_maps(make().eval(), torch.randn(2, 3, SIZE, SIZE), kind="grad_cam")
    assert maps.shape == (2, 5, *grid)
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=4)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, SIZE, SIZE, generator=generator), torch.arange(8) % 4


def test_task_trains_the_objective_and_evaluates_the_model() -> None:
    task, objective = adapter.ObjectiveTask(Introspective(resnet())), Introspective(resnet())
    mine, theirs = objective(*batch()), task(*batch())
    assert mine.keys() == theirs.keys()
    torch.testing.assert_close(mine["loss"], theirs["loss"])
    assert task.get_eval_model() is task.get_trainable_module().model
    parameters = list(task.get_trainable_module().parameters())
    assert len(parameters) == len(list(task.parameters()))


def mixed() -> Mixup:
    return Mixup(LabelSmoothing(resnet()), num_classes=4, seed=3)


def with_means() -> Introspective:
    return Introspective(resnet(), aggregation="class")


@pytest.mark.parametrize("make", [mixed, with_means])
def test_task_keeps_an_average_and_restores_what_the_objective_remembers(
    make: Callable[[], Objective],
) -> None:
    def task() -> nn.Module:
        return adapter.ObjectiveTask(make())

    first = task()
    first.setup_ema(decay=0.5)
    first(*batch())["loss"].backward()
    with torch.no_grad():
        for parameter in first.get_eval_model().parameters():
            parameter.add_(1.0)
    before = next(first.get_eval_model(ema=True).parameters()).clone()
    first.update_ema(step=10)  # timm takes the first step for a copy
    after = next(first.get_eval_model(ema=True).parameters())
    torch.testing.assert_close(after, before + 0.5)

    state = first.get_checkpoint_state()
    second = task()
    second.load_checkpoint_state(state["state_dict"], state["task_state"])
    whole = first.get_trainable_module().state_dict()
    for name, value in second.get_trainable_module().state_dict().items():
        assert torch.equal(value, whole[name]), name
    assert not {"model", "objective.model"} & {n.rpartition(".")[0] for n in state["task_state"]}


SCRIPT = """
import doctest
import importlib.util
import sys
import timm
from timm.task import ClassificationTask
import torch

model = timm.create_model(sys.argv[1], num_classes=4)
task = ClassificationTask(model, criterion=torch.nn.CrossEntropyLoss(), device=torch.device("cpu"))
out = task(torch.randn(4, 3, 64, 64), torch.arange(4))
assert "introspection" in out, out.keys()
print("trained", type(task).__name__)
"""


def test_script_runs_with_the_objective_in_place_of_its_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script builds its task as timm's train.py does."""
    file, before = tmp_path / "train.py", list(sys.argv)
    file.write_text(SCRIPT)
    script.run_script("introspective:weight=0.5", file, ["resnet10t"])
    assert "trained ObjectiveTask" in capsys.readouterr().out
    assert sys.argv == before
    assert timm.task.ClassificationTask.__name__ == "ClassificationTask"


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass timm's train"):
        script.run_script("introspective", tmp_path / "absent.py", [])
    with pytest.raises(InputError, match="there is no objective"):
        script.objective_for("introspectiv", resnet())


def test_examples() -> None:
    """Here, as doctest's own collection would import timm in every worker (conftest.py)."""
    import selfexplain.adapters.timm as module

    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
