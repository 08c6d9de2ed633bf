"""What the README and the method pages show, runs."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest

from selfexplain.cli import parse
from selfexplain.experiments.objectives import OBJECTIVES, resolve
from selfexplain.spaces import random_genotype, save_genotype

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


PYTHON = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]


@pytest.mark.parametrize(("page", "i"), PYTHON, ids=[f"{p.stem}-{i}" for p, i in PYTHON])
def test_python_block_runs(page: Path, i: int) -> None:
    with mock.patch.dict(OBJECTIVES):  # to which a page adds one of its own
        exec(compile(blocks(page, "python")[i], f"{page.name} block {i}", "exec"), {})


def commands() -> list[str]:
    lines = [
        line
        for page in PAGES
        for block in blocks(page, "(?:bash|sh)")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("selfexplain ")]


def leave_configuration(path: Path) -> None:
    """Write a file for --config; of YAML the one that its page shows."""
    [shown] = blocks(ROOT / "docs" / "how-to" / "configuration.md", "yaml")
    if path.suffix == ".yaml":
        path.write_text(shown)
    else:
        file = path if path.suffix == ".json" else path / "run.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"config": {"data": {"data": "digits"}}}')


@pytest.mark.parametrize("line", commands())
def test_command_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag of a shown command exists and every value fits."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    for before, word in pairwise(words):
        if before == "--config":  # which an earlier command would have written
            leave_configuration(Path(word))
    for word in words:
        if word.endswith("genotype.json"):  # which an earlier command would have written
            save_genotype(word, random_genotype("darts"))
    if words[0] == "report":  # which looks for the folders of earlier commands
        for word in words[1:]:
            if word.startswith("runs/"):
                Path(word).mkdir(parents=True)
    command = parse(words)
    for spec in getattr(command, "objectives", ()):
        resolve(spec, command.options)


def test_no_link_is_dead_and_nothing_is_left_to_fill_in() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text()
        assert "PLACEHOLDER" not in text, page
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


def test_there_is_something_to_test() -> None:
    assert len(PYTHON) >= 2
    assert len(commands()) >= 3


def test_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= shown <= targets
