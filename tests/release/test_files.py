"""Dockerfile and release workflow: neither runs here, so what they refer to is looked up."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def instructions(text: str) -> list[tuple[str, str]]:
    """Of a Dockerfile: name and arguments, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line for line in joined.splitlines() if line.strip()]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    return instructions((ROOT / "Dockerfile").read_text())


def test_what_the_image_copies_exists_and_is_sent_to_docker(
    dockerfile: list[tuple[str, str]],
) -> None:
    sent = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    first = dockerfile[: [i for i, (name, _) in enumerate(dockerfile) if name == "FROM"][1]]
    copied = [word for name, words in first if name == "COPY" for word in words.split()[:-1]]
    assert {"pyproject.toml", "src", "README.md", "LICENSE"} <= set(copied) <= set(sent)
    later = [w for name, w in dockerfile[len(first) :] if name == "COPY" and "--from" not in w]
    assert {word for words in later for word in words.split()[:-1]} <= set(sent)
    assert all((ROOT / name).exists() for name in sent)


def test_the_image_has_no_cuda_and_its_user_is_not_root(dockerfile: list[tuple[str, str]]) -> None:
    [install] = [words for name, words in dockerfile if name == "RUN" and "torch" in words]
    assert install.index(CPU_INDEX) < install.index("/dist/*.whl")
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    names = [name for name, _ in dockerfile]
    users = [words for name, words in dockerfile if name == "USER"]
    assert users == ["1000"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert dict(dockerfile)["ENTRYPOINT"] == '["selfexplain"]'


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    # BaseLoader: or `on` would be a truth value
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    return dict(yaml.load(text, yaml.BaseLoader))


def test_a_tag_is_published_after_the_wheel_was_tried(workflow: dict[str, Any]) -> None:
    [pattern] = workflow["on"]["push"]["tags"]
    assert set(workflow["on"]) == {"push"}
    assert fnmatch("v0.1.0", pattern)
    jobs = workflow["jobs"]
    assert all(set(jobs) >= set(_needs(job)) for job in jobs.values())
    assert set(_needs(jobs["publish"])) == {"build", "try"}
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == [
        "publish"
    ]
    for job in jobs.values():
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_the_wheel_is_tried_on_every_version_that_the_project_names(
    workflow: dict[str, Any],
) -> None:
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert workflow["jobs"]["try"]["strategy"]["matrix"]["python"] == named


def _needs(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else needs
