"""Imports go down: nothing imports from its own layer or one above, so there are no cycles."""

import ast
import tomllib
from pathlib import Path

import pytest

import selfexplain

ROOT = Path(selfexplain.__file__).parent
LAYERS = (
    {"errors", "lazy"},
    {"limits", "records", "distributed", "seeding"},
    {"files", "training.options"},
    {"models", "data", "launchers", "training.optimizers"},
    {"hypergradients", "explanations", "spaces"},
    {"introspection.options"},
    {"objectives", "evaluation"},
    {"introspection", "lease"},
    {"training", "report"},
    {"experiments"},
    {"app", "adapters", "command_line"},
    {"cli"},
    {"__main__"},
)
"""Modules with a dot are lower than their package: searches make optimizers, too."""
LAYERS_OF_EXPERIMENTS = (
    {"reading_options", "read_records", "specs"},
    {"options", "objectives"},
    {"search_options", "data"},
    {"nas_study_options", "runtime", "run_dir"},
    {"fit"},
    {"read_runs"},
    {"compare", "explain", "export", "report", "table"},
    {"search"},
    {"demo"},
)


LOWER = {name for names in LAYERS for name in names if "." in name}


def part_of(name: str) -> str:
    """The module or package that a dotted name below `selfexplain` belongs to."""
    module = ".".join(name.split(".")[:2])
    return module if module in LOWER else name.split(".")[0]


def layer_of(name: str, layers: tuple[set[str], ...]) -> int:
    return next(i for i, names in enumerate(layers) if name in names)


def imported(path: Path, package: str) -> set[str]:
    """Names of the modules and packages directly in `package` that the file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == package:
                names = [f"{package}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith(f"{package}."):
                found.add(part_of(name.removeprefix(f"{package}.")))
    return found


def upward_imports(folder: Path, package: str, layers: tuple[set[str], ...]) -> list[str]:
    """What breaks the order of the layers, one sentence an import."""
    found = []
    for path in folder.rglob("*.py"):
        name = part_of(".".join(path.relative_to(folder).with_suffix("").parts))
        if name == "__init__":  # the package's own names come from anywhere inside it
            continue
        found += [
            f"{path.relative_to(folder)} imports {package}.{other}"
            for other in sorted(imported(path, package) - {name})
            if layer_of(other, layers) >= layer_of(name, layers)
        ]
    return found


@pytest.mark.parametrize(
    ("package", "layers"),
    [("selfexplain", LAYERS), ("selfexplain.experiments", LAYERS_OF_EXPERIMENTS)],
)
def test_imports_go_down(package: str, layers: tuple[set[str], ...]) -> None:
    folder = ROOT.parent.joinpath(*package.split("."))
    there = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__"} == set().union(*layers) - LOWER
    assert upward_imports(folder, package, layers) == []


def test_an_import_that_goes_up_is_found(tmp_path: Path) -> None:
    (tmp_path / "low.py").write_text("def f():\n    from pkg import high\n")
    (tmp_path / "high.py").write_text("import pkg.low\nfrom pkg.beside.deep import x\n")
    (tmp_path / "beside.py").write_text("import torch\n")
    assert sorted(upward_imports(tmp_path, "pkg", ({"low"}, {"high", "beside"}))) == [
        "high.py imports pkg.beside",
        "low.py imports pkg.high",
    ]


def test_every_public_function_has_an_example() -> None:
    """Public: named in the `__all__` of a package."""
    missing = []
    for init in ROOT.glob("*/__init__.py"):
        module = __import__(f"selfexplain.{init.parent.name}", fromlist=["*"])
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            documented = callable(thing) and getattr(thing, "__module__", "").startswith("self")
            if documented and ">>>" not in (thing.__doc__ or ""):
                missing.append(f"{init.parent.name}.{name}")
    assert missing == []


def test_files_that_are_no_modules_are_packaged() -> None:
    """Templates, styles and tables: an installed wheel has no others than pyproject names."""
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["selfexplain"]
    packaged = {path for pattern in patterns for path in ROOT.glob(pattern)}
    files = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path for path in files if path.suffix != ".py"} - packaged == set()
    assert all(any(ROOT.glob(pattern)) for pattern in patterns)
