"""Published tables say what their raw logs say."""

import json
import re
import tarfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from studies.archive import pack, read_logs, unpack
from studies.explain_better import markdown as premise_markdown
from studies.explain_better import verdict
from studies.published_cells import compared
from studies.published_cells import markdown as published_markdown

from selfexplain.experiments.compare.compare import SCORES, summarise
from selfexplain.experiments.options import run_name
from selfexplain.spaces import from_string
from selfexplain.spaces.table import load_table

ROOT = Path(__file__).parents[1]
FOUND = sorted((ROOT / "results").rglob("results.json"))
STUDIES = [path for path in FOUND if (path.parent / "nas-study.json").exists()]
PUBLISHED_CELLS = ROOT / "results/lease/published/results.json"
RESULTS = [path for path in FOUND if path not in (*STUDIES, PUBLISHED_CELLS)]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "results").rglob("README.md"))
TABLES = {
    line
    for table in (ROOT / "results").rglob("*.md")
    if table.name != "README.md"
    for line in table.read_text().splitlines()
}


logs_of = cache(read_logs)


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


@pytest.mark.parametrize("path", RESULTS, ids=[p.parent.name for p in RESULTS])
def test_rows_are_the_results_of_the_runs(path: Path) -> None:
    study = ROOT / "results" / path.relative_to(ROOT / "results").parts[0]
    logs, folder = logs_of(study), path.parent.relative_to(study) / "runs"
    for row in read(path)["rows"]:
        name = folder / run_name(row["objective"], row["seed"]) / "result.json"
        run = json.loads(logs[name.as_posix()])
        assert {name: row[name] for name in SCORES if name in row} == {
            name: run[name] for name in SCORES if name in run
        }


@pytest.mark.parametrize("path", RESULTS, ids=[p.parent.name for p in RESULTS])
def test_summary_is_that_of_the_rows(path: Path) -> None:
    results = read(path)
    objectives = [line["objective"] for line in results["summary"]]
    again = json.loads(json.dumps(summarise(results["rows"], objectives)))
    for line, line_again in zip(results["summary"], again, strict=True):
        for name, value in line.items():
            assert line_again[name] == pytest.approx(value), name


@pytest.mark.parametrize("path", STUDIES, ids=[p.parent.name for p in STUDIES])
def test_cells_of_a_study_are_those_of_its_searches(path: Path) -> None:
    study = ROOT / "results" / path.relative_to(ROOT / "results").parts[0]
    logs, results = logs_of(study), read(path)
    truth = results["config"]["table"]
    table = None if truth is None else load_table(truth)
    for row in results["rows"]:
        name = run_name(f"{row['method']}-epochs{row['budget']}", row["seed"])
        folder = path.parent.relative_to(study) / "searches" / name
        found = json.loads(logs[(folder / "result.json").as_posix()])
        assert from_string(row["genotype"]) == from_string(found["genotype"])
        if table is not None:
            assert row["table"] == pytest.approx(table.look_up(from_string(row["genotype"])).test)
    for row in results["retrained"]:
        cell = sha256(row["genotype"].encode()).hexdigest()[:12]
        name = path.parent.relative_to(study) / "retrained" / run_name(cell, row["seed"])
        run = json.loads(logs[(name / "result.json").as_posix()])
        assert row["accuracy"] == run["accuracy"]
    by_table = table is not None
    kind, rows = ("table", results["rows"]) if by_table else ("retrained", results["retrained"])
    for line in results["summary"]:
        own = [
            r["table" if by_table else "accuracy"] for r in rows if r["method"] == line["method"]
        ]
        assert line[kind]["mean"] == pytest.approx(sum(own) / len(own))


def test_published_cells_have_the_accuracies_of_their_runs() -> None:
    study, results = ROOT / "results/lease", read(PUBLISHED_CELLS)
    logs = logs_of(study)
    for row in results["rows"]:
        for seed, accuracy in zip(results["config"]["seeds"], row["accuracy"], strict=True):
            folder = f"published/runs/{row['cell']}-seed{seed}"
            run, made = (json.loads(logs[f"{folder}/{n}.json"]) for n in ("result", "run"))
            assert accuracy == run["accuracy"]
            assert row["parameters"] == run["parameters"]
            assert from_string(made["config"]["genotype"]) == from_string(row["genotype"])
    accuracy = {row["cell"]: row["accuracy"] for row in results["rows"]}
    for line, again in zip(results["comparisons"], compared(accuracy), strict=True):
        for name, value in again.items():
            assert line[name] == pytest.approx(value), name
    assert published_markdown(results) == PUBLISHED_CELLS.with_name("table.md").read_text()


def test_the_premise_is_judged_by_its_cells() -> None:
    cells = ROOT / "results/premise/cells"
    rows = [json.loads(line) for line in (cells / "cells.jsonl").read_text().splitlines()]
    table = premise_markdown(verdict(rows))
    assert table == (cells / "verdict.md").read_text()
    assert table.partition("\n\n")[0] in (ROOT / "results/premise/README.md").read_text()


def test_parts_of_the_gradient_are_between_their_least_and_most() -> None:
    folder = ROOT / "results/premise"
    page = (folder / "README.md").read_text()
    moments = [row["parts"] for seed in range(3) for row in read_part(folder, seed)]
    assert len(moments) == 9

    def ends(values: list[float], sign: str = "") -> str:
        return " to ".join(short(f"{end:{sign}.2f}") for end in (min(values), max(values)))

    for name, shown in SHOWN_PARTS.items():
        size = [parts[name]["norm"] / parts["direct"]["norm"] for parts in moments]
        noise = [parts[name]["signal_to_noise"] for parts in moments]
        rank = [parts[name]["rank_correlation"] for parts in moments]
        mean = short(f"{sum(rank) / len(rank):+.2f}")
        share = "1" if name == "direct" else ends(size)
        assert f"| {shown} | {share} | {ends(noise)} | {ends(rank, '+')}, mean {mean} |" in page


SHOWN_PARTS = {
    "direct": "direct",
    "audience": "audience's",
    "shuffled": "audience's, shuffled",
}


def read_part(folder: Path, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read(folder / f"gradient/seed{seed}.json")["rows"]
    return rows


def short(number: str) -> str:
    """A number without the zero before its point, as pages write it."""
    return number.replace("0.", ".", 1)


def test_costs_of_steps_are_those_measured() -> None:
    rows = read(ROOT / "results/benchmarks/cpu.json")["groups"]["search_steps"]["rows"]
    measured = {row["benchmark"]: row for row in rows}
    page = (ROOT / "docs/methods/lease.md").read_text()
    names = [n.removeprefix("search step, ") for n in measured if n.startswith("search step, ")]
    assert len(names) == 14
    for name in names:
        time, peak = (measured.get(f"search {what}, {name}") for what in ("step", "peak memory"))
        assert time is not None
        shown = OTHERWISE_SHOWN.get(name, name)
        memory = "" if peak is None else f"{peak['ratio']:.2f}"
        ratios = f"{time['ratio']:.2f} | {time['ratio to our pass']:.2f}"
        assert f"| {shown} | {ratios} | {memory} |" in page


OTHERWISE_SHOWN = {
    "lease, forward over reverse": "lease, dual numbers",
    "lease, normalised": "lease, inner products, coupling normalised",
}


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_measured_lines_of_tables_stand_in_results(page: Path) -> None:
    """A line of a table with a mean and its deviation is that of a table beside raw logs."""
    lines = [x for x in page.read_text().splitlines() if re.match(r"\|.*\d ± \d", x)]
    assert [line for line in lines if line not in TABLES] == []


def test_an_archive_holds_what_runs_left_and_puts_it_back(tmp_path: Path) -> None:
    files = {
        "a/runs/x-seed0/result.json": b"{}",
        "a/runs/x-seed0/model.safetensors": b"weights",
        "a/table.md": b"| a |",
        "teachers/t/metrics.jsonl": b"{}\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    pack(tmp_path)
    logs = {"a/runs/x-seed0/result.json": b"{}", "teachers/t/metrics.jsonl": b"{}\n"}
    assert read_logs(tmp_path) == logs
    first = (tmp_path / "logs.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "logs.tar.gz") as tar:
        assert [(entry.name, entry.mtime, entry.uid) for entry in tar] == [
            (name, 0, 0) for name in sorted(logs)
        ]

    (tmp_path / "a/runs/x-seed0/result.json").write_bytes(b"[]")  # a run made anew
    (tmp_path / "teachers/t/metrics.jsonl").unlink()
    unpack(tmp_path)
    assert (tmp_path / "a/runs/x-seed0/result.json").read_bytes() == b"[]"
    assert (tmp_path / "teachers/t/metrics.jsonl").read_bytes() == b"{}\n"
    (tmp_path / "a/runs/x-seed0/result.json").write_bytes(b"{}")
    pack(tmp_path)
    assert (tmp_path / "logs.tar.gz").read_bytes() == first


ARCHIVES = sorted((ROOT / "results").glob("*/logs.tar.gz"))


@pytest.mark.parametrize("archive", ARCHIVES, ids=[p.parent.name for p in ARCHIVES])
def test_archives_of_the_repository_depend_on_nothing_but_their_logs(archive: Path) -> None:
    assert archive.read_bytes()[4:8] == bytes(4)  # no time in gzip's header
    with tarfile.open(archive) as tar:
        entries = list(tar)
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mtime, entry.uid, entry.uname) for entry in entries} == {(0, 0, "")}
