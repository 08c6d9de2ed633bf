"""`selfexplain search --seeds`: the same searches as one by one, whatever runs them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from selfexplain.cli import main, parse
from selfexplain.errors import InputError
from selfexplain.experiments.options import DataOptions, SweepOptions
from selfexplain.experiments.search.run import run_search, run_searches
from selfexplain.experiments.search_options import SearchesConfig
from selfexplain.files import read_json
from selfexplain.launchers import Failed, Message, Started, StepsDone

pytestmark = pytest.mark.slow

WORDS = ["search", "--data", "digits", "--train-size", "40", "--validation", "0.03"]
WORDS += ["--batch-size", "20", "--init-channels", "4", "--cells", "1", "--epochs", "3"]
WORDS += ["--method", "darts1"]


def searches(out: Path, *more: str) -> SearchesConfig:
    command = parse([*WORDS, "--out", str(out), *more])
    assert isinstance(command, SearchesConfig)
    return command


def test_seeds_side_by_side_are_those_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a worker is killed between two epochs: its search goes on from the checkpoint."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    news: list[tuple[str, Message]] = []
    checkpoint = tmp_path / "c" / "seed1" / "checkpoint.pt"

    def watch(name: str, message: Message) -> None:
        news.append((name, message))
        killed = any(isinstance(m, Failed) for _, m in news)
        if name == "seed1" and isinstance(message, StepsDone) and not killed:
            while not checkpoint.exists():
                time.sleep(0.001)
            begun = [m.pid for n, m in news if n == name and isinstance(m, Started)]
            os.kill(begun[-1], signal.SIGKILL)  # type: ignore[arg-type]

    small = ["--epochs", "6", "--space", "nasbench201"]
    config = searches(tmp_path / "c", "--seeds", "0", "1", "--workers", "2", *small)
    found = run_searches(config, watch)
    assert found == read_json(tmp_path / "c" / "searches.json")
    for row, seed in zip(found["rows"], (0, 1), strict=True):
        one = searches(tmp_path / f"one{seed}", "--seed", str(seed), *small).each()[0]
        alone = run_search(one)
        for result in (row, alone):
            del result["step_seconds"]
        assert row == alone
        log = (tmp_path / "c" / f"seed{seed}" / "search.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in log] == list(range(1, 7))
    assert [(n, m.retry) for n, m in news if isinstance(m, Failed)] == [("seed1", True)]


def test_command_shows_a_table_and_adds_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--method", "random", "--out", str(tmp_path / "s")]
    main([*words, "--seeds", "0", "1"])
    before = (tmp_path / "s" / "seed0" / "result.json").stat().st_mtime_ns
    main([*words, "--seeds", "0", "1", "2"])
    assert (tmp_path / "s" / "seed0" / "result.json").stat().st_mtime_ns == before
    results = json.loads((tmp_path / "s" / "searches.json").read_text())
    assert [row["seed"] for row in results["rows"]] == [0, 1, 2]
    assert results["summary"]["n"] == 3
    assert results["summary"]["validation_accuracy_mean"] is None
    printed = capsys.readouterr().out
    assert "seed0: done, found finished" in printed
    assert "different cells from 3 seeds" in " ".join(printed.split())


def test_folder_and_flags_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    single = run_search(searches(tmp_path / "one", "--method", "random").each()[0])
    assert single["seed"] == 0
    with pytest.raises(InputError, match="pass another --out"):
        run_searches(searches(tmp_path / "one", "--method", "random", "--seeds", "0", "1"))
    data = DataOptions(data="digits")
    with pytest.raises(InputError, match="exclude each other"):
        SearchesConfig(data=data, seed=1, seeds=(0,))
    with pytest.raises(InputError, match="names one twice"):
        SearchesConfig(data=data, seeds=(0, 0))
    with pytest.raises(InputError, match="pass --seeds"):
        SearchesConfig(data=data, sweep=SweepOptions(workers=2))
    named = [SearchesConfig(data=data, seeds=seeds).out.name for seeds in ((), (0,), (0, 1))]
    assert named[0].startswith("search-digits-")
    assert named[1] == named[2]
    assert named[1].startswith("searches-digits-")
