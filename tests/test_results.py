"""Published tables say what their raw logs say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfexplain.experiments.compare.compare import SCORES, summarise
from selfexplain.experiments.run_dir import run_name

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "results").rglob("results.json"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "results").rglob("README.md"))
TABLES = {
    line
    for table in (ROOT / "results").rglob("*.md")
    if table.name != "README.md"
    for line in table.read_text().splitlines()
}


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


@pytest.mark.parametrize("path", RESULTS, ids=[p.parent.name for p in RESULTS])
def test_rows_are_the_results_of_the_runs(path: Path) -> None:
    for row in read(path)["rows"]:
        run = read(path.parent / "runs" / run_name(row["objective"], row["seed"]) / "result.json")
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


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_measured_lines_of_tables_stand_in_results(page: Path) -> None:
    """A line of a table with a mean and its deviation is that of a table beside raw logs."""
    lines = [x for x in page.read_text().splitlines() if re.match(r"\|.*\d ± \d", x)]
    assert [line for line in lines if line not in TABLES] == []
