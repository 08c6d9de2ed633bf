"""What the command line imports before it answers, and packages that import when asked."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import selfexplain
from selfexplain.__main__ import SPINS, spin_shortly

ROOT = Path(selfexplain.__file__).parent
LIGHT = {"selfexplain", "tyro", "typeguard", "docstring_parser", "typing_extensions", "shtab"}
"""What help and refused options may import beside the standard library: not even torch."""
HEAVY = {
    "lightning_fabric",
    "torchmetrics",
    "torch._dynamo",
    "torch._inductor",
    "matplotlib",
    "datasets",
    "pyarrow",
    "pandas",
    "sklearn",
    "scipy",
    "transformers",
    "gradio",
    "huggingface_hub",
    "jinja2",
}
"""What no refusal waits for."""
WITH_FABRIC = {"lightning_fabric", "jinja2"}
"""What a training imports in any case; Fabric imports jinja2, too."""
COMPILER = {"torch._dynamo", "torch._inductor"}
"""What torch imports at the first optimizer's first step."""
CALLS = """
import json, sys
before = set(sys.modules)
from selfexplain.cli import main
for words in json.loads(sys.argv[1]):
    code = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code or 0
    print("IMPORTED", code, *(set(sys.modules) - before))
"""
STARTED = """
import sys
from pathlib import Path
import torch
from selfexplain.evaluation import score
from selfexplain.experiments.options import DataOptions, DeviceOptions, TrainConfig
from selfexplain.experiments.fit.train import run_training
from selfexplain.training import TrainingOptions

class FirstStepDone(Exception):
    pass

def stop(done, total):
    raise FirstStepDone

try:
    run_training(
        TrainConfig(
            data=DataOptions(data="digits", train_size=100),
            training=TrainingOptions(epochs=1, batch_size=50),
            device=DeviceOptions(accelerator="cpu"),
            out=Path("out"),
        ),
        on_step=stop,
    )
except FirstStepDone:
    score(torch.eye(3), torch.arange(3))
    print("IMPORTED", *sys.modules)
import torchmetrics
from lightning_fabric.utilities import imports
print("VERSION", imports._TORCHMETRICS_GREATER_EQUAL_1_0_0, torchmetrics.Metric.__name__)
"""
LAZY = [p.parent for p in ROOT.rglob("__init__.py") if "lazily(" in p.read_text()]


def imported(*commands: list[str], folder: Path) -> list[tuple[int, set[str]]]:
    """Exit code of each command, one after another, and the modules imported until it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    out = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=folder,
    ).stdout
    told = [line.split()[1:] for line in out.splitlines() if line.startswith("IMPORTED ")]
    return [(int(code), set(modules)) for code, *modules in told]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["study-kd", "--help"], 0),
        (["search", "--help"], 0),
        (["nas-study", "--help"], 0),
        (["nas-study", "--data", "digits", "--retrain", "1", "--methods", "leese"], 2),
        (["train", "--data", "digits", "--nope", "3"], 2),
        (["train", "--data", "digits", "--batch-size", "0"], 2),
        (["retrain", "--data", "digits", "--genotype", "absent"], 2),
        (["report", "absent"], 2),
    ],
    ids=str,
)
def test_help_and_refused_options_come_without_torch(
    words: list[str], code: int, tmp_path: Path
) -> None:
    [(ended, modules)] = imported(words, folder=tmp_path)
    assert ended == code
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    packages = {name for name in packages if not name.startswith("_")}
    assert packages - LIGHT == set()


REFUSED = [
    ["report", "."],
    ["train", "--data", "digits", "--objective", "absent"],
    ["train", "--data", "digits", "--objective", "kd", "--teacher", "absent"],
    ["study-kd", "--data", "absent"],
    ["search", "--data", "folder:absent"],
    ["nas-study", "--data", "folder:absent", "--retrain", "1"],
    ["explain", "--run", "absent", "--evaluate"],
    ["export", "--run", "absent", "--out", "a"],
    ["app", "--run", "absent"],
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, set[str]]]:
    """In one process, as what each imports adds up."""
    return imported(*REFUSED, folder=tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=map(" ".join, REFUSED))
def test_refusals_wait_for_nothing_heavy(number: int, refused: list[tuple[int, set[str]]]) -> None:
    ended, modules = refused[number]
    assert ended == 2
    assert modules & HEAVY == set()


def test_a_training_begins_and_is_scored_without_what_it_does_not_use(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    out = subprocess.run(
        [sys.executable, "-c", STARTED],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    ).stdout
    [modules] = [line.split()[1:] for line in out.splitlines() if line.startswith("IMPORTED ")]
    assert "lightning_fabric" in modules
    assert HEAVY & set(modules) - WITH_FABRIC - COMPILER == set()
    # Fabric knows the version nonetheless, and whoever imports torchmetrics now gets all of it.
    assert "VERSION True Metric" in out.splitlines()


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.name)
def test_lazy_packages_have_what_type_checkers_are_told(package: Path) -> None:
    """`__all__` has what stands under TYPE_CHECKING, which is the very thing of its module."""
    module = importlib.import_module(".".join(("selfexplain", *package.relative_to(ROOT).parts)))
    tree = ast.parse((package / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    here = {name for name in module.__all__ if name in vars(module) and name not in module.__lazy__}
    assert set(told) | here == set(module.__all__)
    assert set(told) <= set(dir(module))
    for name, place in told.items():
        assert getattr(module, name) is getattr(importlib.import_module(place), name)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        module.absent  # noqa: B018 - the look-up is what is tested


def test_a_function_keeps_its_place_from_the_module_of_its_name() -> None:
    code = (
        "import selfexplain.hypergradients.level, selfexplain.hypergradients as m;"
        "from selfexplain.hypergradients import hypergradient;"
        "import selfexplain.hypergradients.hypergradient;"
        "print(type(m.take_steps).__name__, type(m.hypergradient).__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split() == ["function", "function"]


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({}, {"GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "5"}, {}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
    ],
    ids=str,
)
def test_threads_spin_shortly_unless_told_otherwise(
    environment: dict[str, str], added: dict[str, str]
) -> None:
    told = dict(environment)
    spin_shortly(told)
    assert told == environment | added
