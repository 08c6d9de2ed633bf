"""An installed wheel has what it imports: every package is declared, in an extra if not for all."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WITH_GRADIO = {"fastapi", "starlette"}
"""Gradio is made of these, and says which versions; the app extends their classes."""


def normalised(requirement: str) -> str:
    """The name in a requirement, as indexes compare names."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def imports(path: Path) -> set[str]:
    """Packages that a module names anywhere in its imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    packages = {name.partition(".")[0] for name in found}
    return packages - set(sys.stdlib_module_names) - {"selfexplain"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def test_every_package_that_is_imported_is_declared(project: dict[str, Any]) -> None:
    extras = [r for extra in project["optional-dependencies"].values() for r in extra]
    declared = {normalised(r) for r in [*project["dependencies"], *extras]} | WITH_GRADIO
    distributions = packages_distributions()
    undeclared = {
        (name, str(path.relative_to(ROOT)))
        for path in (ROOT / "src").rglob("*.py")
        for name in imports(path)
        if not {normalised(d) for d in distributions.get(name, [name])} & declared
    }
    assert undeclared == set()


def test_every_dependency_has_its_version_in_the_constraints(project: dict[str, Any]) -> None:
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    names = {normalised(r) for r in project["dependencies"]}
    assert names <= {normalised(name) for name in pinned}
