"""The report of real searches, read from their folders and opened in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.report import holds_search, read_search, search_sections
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import read_json
from selfexplain.report.html import page
from selfexplain.training.log import EpochLog

SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|none~1|none~2|"


def tiny(out: Path, **options: Any) -> SearchConfig:
    data = DataOptions(data="digits", train_size=40, validation=0.03)
    return SearchConfig(
        **{"data": data, "batch_size": 20, "init_channels": 4, "cells": 1, "epochs": 3}
        | {"warmup_epochs": 0, "out": out}
        | options
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that explains, and one that does not."""
    root = tmp_path_factory.mktemp("searches")
    run_search(tiny(root / "lease"))
    run_search(tiny(root / "darts", space="darts", method="darts1", cells=3, epochs=2))
    return root


@pytest.fixture(scope="module")
def written(folders: Path) -> Path:
    """The page of both."""
    sections = [s for name in ("lease", "darts") for s in search_sections(folders / name)]
    path = folders / "report.html"
    path.write_text(page("Searches", sections), encoding="utf-8")
    return path


def bodies(folder: Path) -> dict[str, str]:
    return {section.title: section.body for section in search_sections(folder)}


def test_sections_of_a_search_that_explains(folders: Path) -> None:
    found = bodies(folders / "lease")
    assert list(found) == [
        "Search",
        "Cell",
        "Architecture",
        "Losses",
        "What the audience was shown",
    ]
    assert found["Cell"].count("<svg") == 3
    assert found["What the audience was shown"].count("<img") == 3 * 4 * 3
    assert "class 9" in found["What the audience was shown"]
    result = json.loads((folders / "lease" / "result.json").read_text())
    assert f"{result['validation_accuracy']:.2f} %" in found["Search"]


def test_sections_of_one_that_does_not(folders: Path) -> None:
    found = bodies(folders / "darts")
    assert list(found) == ["Search", "Cell", "Architecture", "Losses"]
    assert "reduce cell" in found["Cell"]


def test_folders_of_an_older_version_are_read(folders: Path, tmp_path: Path) -> None:
    """Without album, raw alphas and class names."""
    old = tmp_path / "old"
    shutil.copytree(folders / "lease", old, ignore=shutil.ignore_patterns("album"))
    lines = EpochLog(old, name="search.jsonl").read()
    for line in lines:
        del line["alphas"]
    (old / "search.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_json(old / "run.json")
    del run["images"]["class_names"]
    (old / "run.json").write_text(json.dumps(run))
    found = bodies(old)
    assert "This search has no recorded explanations" in found["What the audience was shown"]
    assert "The raw alphas are missing" in found["Architecture"]
    shutil.copytree(folders / "lease" / "album", old / "album")
    assert "class 9" in bodies(old)["What the audience was shown"]


def test_epochs_that_were_cut_off_are_not_shown(folders: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(folders / "lease", cut)
    (cut / "result.json").unlink()
    lines = (cut / "search.jsonl").read_text().splitlines(keepends=True)
    (cut / "search.jsonl").write_text("".join(lines[:2]))
    record = read_search(cut)
    assert record.snapshots is not None
    assert list(record.snapshots.epochs) == [1, 2]
    assert "2 of 3, unfinished" in bodies(cut)["Search"]


def test_searches_with_several_seeds_and_lookups(tmp_path: Path) -> None:
    from selfexplain.spaces.table import BenchmarkTable, MeasuredCell, save_table

    out = tmp_path / "s"
    main(
        ["search", "--data", "digits", "--method", "random", "--seeds", "0", "1", "--out", str(out)]
    )
    assert [section.title for section in search_sections(out)] == ["Searches", "Seed 0", "Seed 1"]
    cells = [json.loads((out / f"seed{i}" / "result.json").read_text())["genotype"] for i in (0, 1)]
    measured = [
        MeasuredCell(
            arch=arch, seeds=3, validation=15.0, test=test, seed_std=0.1, params_m=0.1, flops_m=7.8
        )
        for arch, test in zip(cells, (15.61, 16.25), strict=True)
    ]
    table = tmp_path / "table.parquet"
    save_table(BenchmarkTable(measured), table)
    genotypes = [str(out / f"seed{i}" / "genotype.json") for i in (0, 1)]
    words = ["lookup", "--table", str(table), "--out", str(out / "lookup.json"), "--genotype"]
    main([*words, *genotypes])
    (first,) = search_sections(out)[0].parts
    assert first.title == "Lookup"
    assert "<td>16.25</td><td>15.00</td><td>0.10</td><td>1 of 2</td>" in first.body
    shutil.copy(out / "lookup.json", out / "seed0" / "lookup.json")
    assert "15.61" in bodies(out / "seed0")["Lookup"]
    assert "15.61" in search_sections(out)[1].parts[-1].body
    (out / "searches.json").unlink()
    assert [section.title for section in search_sections(out)] == ["Searches", "Seed 0", "Seed 1"]
    assert "Not all" in search_sections(out)[0].body


def test_other_folders_are_refused(tmp_path: Path, folders: Path) -> None:
    with pytest.raises(
        InputError, match="contains no search; pass the folder of selfexplain search"
    ):
        search_sections(tmp_path)
    (tmp_path / "run.json").write_text('{"config": {"objective": "standard"}}')
    with pytest.raises(InputError, match="contains no search"):
        search_sections(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folders / "lease", broken)
    (broken / "album" / "epoch-0002.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"epoch-0002.safetensors cannot be read"):
        search_sections(broken)


def test_trainings_named_by_seed_are_no_searches(folders: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "run.json").write_text('{"config": {"objective": "standard"}}')
    assert not holds_search(tmp_path)
    shutil.copytree(folders / "lease", tmp_path / "seed2")
    assert [section.title for section in search_sections(tmp_path)] == ["Searches", "Seed 2"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


OUTSIDE = """() => [...document.body.querySelectorAll("*")]
  .filter(e => !e.closest(".scroll *") && !e.classList.contains("skip"))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 120))"""
"""Elements that reach over the page's right edge; what scrolls in a frame of its own may."""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_page_in_a_browser(width: int, theme: str, written: Path, browser: Any) -> None:
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    complaints: list[str] = []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on(
        "request",
        lambda request: (
            complaints.append(request.url[:60])
            if not request.url.startswith(("file:", "data:"))
            else None
        ),
    )
    view.goto(written.as_uri())
    cell, explained, _ = view.locator(".slider").all()
    for slider, parts, count in ((cell, "svg", 1), (explained, "img", 12)):
        before = visible(slider, parts)
        if width < 500 and parts == "svg":
            slider.locator(".scroll:visible").evaluate("frame => { frame.scrollLeft = 100; }")
        assert len(before) == count
        slider.locator("input").press("Home")
        after = visible(slider, parts)
        assert len(after) == count
        assert before != after
        if width < 500 and parts == "svg":  # it stands where it was scrolled to
            left = slider.locator(".scroll:visible").evaluate("frame => frame.scrollLeft")
            assert left == pytest.approx(100, abs=1)
        assert "after epoch 1 of 3" in slider.locator("[aria-live]").inner_text()
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(OUTSIDE) == []
    names = view.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(names) == len(set(names))
    assert complaints == []
    view.close()


def visible(slider: Any, parts: str) -> list[str]:
    """The drawn parts of the frame that is shown."""
    shown = [part for part in slider.locator(parts).all() if part.is_visible()]
    return [part.evaluate("e => e.outerHTML") for part in shown]
