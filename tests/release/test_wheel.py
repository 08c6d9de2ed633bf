"""What is published: the wheel and the source distribution, and their version."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import selfexplain
from selfexplain.experiments.run_dir import commit

ROOT = Path(__file__).parents[2]
BUILD = """
import os, sys, tarfile
from setuptools import build_meta

out = sys.argv[1]
name = build_meta.build_sdist(out)
with tarfile.open(os.path.join(out, name)) as archive:
    archive.extractall(out, filter="data")
os.chdir(os.path.join(out, name.removesuffix(".tar.gz")))
build_meta.build_wheel(out)
"""
"""As `python -m build` does: the wheel is built from what is in the source distribution."""
NEEDED = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "constraints.txt",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both; made in a copy, for a build leaves folders among the sources."""
    folder = tmp_path_factory.mktemp("published")
    source, out = folder / "source", folder / "out"
    out.mkdir()
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in NEEDED:
        shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    (source / "tests" / "test_left_out.py").touch()
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True
    )
    return out


def sources() -> set[str]:
    """Files of the package, as Git keeps them: no compiled modules."""
    package = ROOT / "src"
    files = (path for path in (package / "selfexplain").rglob("*") if path.is_file())
    return {p.relative_to(package).as_posix() for p in files if "__pycache__" not in p.parts}


def test_the_wheel_has_every_file_of_the_package_with_its_bytes(built: Path) -> None:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert names == sources()
        assert all(wheel.read(name) == (ROOT / "src" / name).read_bytes() for name in names)


def test_the_source_distribution_is_what_the_wheel_is_built_from(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in sources()} | set(NEEDED) <= inside
    assert not any(name.startswith("tests") for name in inside)


def test_the_version_stands_in_one_place(built: Path) -> None:
    """In selfexplain/__init__.py; the changelog is of it, finished or not."""
    version = selfexplain.__version__
    assert {
        path.name.split("-")[1].removesuffix(".tar.gz") for path in built.glob("selfexplain-*.*")
    } == {version}
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"selfexplain-{version}.dist-info/METADATA").decode()
    assert f"\nVersion: {version}\n" in metadata
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert f'"{version}"' not in (ROOT / "pyproject.toml").read_text()


def test_an_installed_package_is_not_at_the_commit_of_the_project_around_it(tmp_path: Path) -> None:
    """An environment usually lies in its user's own repository, which does not track it."""

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.org")
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    installed = tmp_path / ".venv" / "selfexplain"
    installed.mkdir(parents=True)
    (installed / "module.py").touch()
    assert commit(installed) is None  # no repository
    git("init", "--quiet")
    (tmp_path / "mine.py").touch()
    git("add", "mine.py")
    git("commit", "--quiet", "--message", "mine")
    assert commit(installed) is None
    assert commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "mine.py").write_text("changed")
    assert commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
