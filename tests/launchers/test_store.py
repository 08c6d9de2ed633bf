"""Runs whose folders go to storage: in memory, on this machine, and where it cannot be reached."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from tests.helpers.sweep_trials import RunOfTwoFiles, leave_a_run

from selfexplain.cli import main
from selfexplain.errors import InputError, WriteError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.compare.grid import stored
from selfexplain.experiments.options import CompareConfig, DataOptions, SweepOptions
from selfexplain.launchers import (
    Done,
    LocalWorkers,
    Message,
    Serial,
    Started,
    Store,
    Stored,
    Trial,
)
from selfexplain.limits import is_url, url_of
from selfexplain.training import TrainingOptions

DATA = ("--data", "digits")


class Broken(MemoryFileSystem):
    """Takes files until it is cut off."""

    protocol = "broken"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    takes: ClassVar[float] = float("inf")

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        if mode == "wb":
            if Broken.takes <= 0:
                raise ConnectionError("the bucket cannot be reached")
            Broken.takes -= 1
        return super()._open(path, mode, **more)


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setattr(Broken, "takes", float("inf"))
    on_machine("first", tmp_path, monkeypatch)
    yield
    for kind in (MemoryFileSystem, Broken):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]


def on_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on on a machine of this name, with a disk of its own."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))


def trials(store: Store, *names: str) -> list[Trial]:
    return [Trial(n, leave_a_run, RunOfTwoFiles(store.folder / "runs" / n)) for n in names]


def begun(store: Store) -> Store:
    """A store with the record of a comparison."""
    store.begin()
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / "compare.json").write_text("{}")
    return store


def names_in(url: str) -> set[str]:
    system, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root).lstrip("/") for path in system.find(root)}


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_finished_runs_are_found_by_another_machine(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{protocol}://{tmp_path}/kept/sweep"
    store = begun(Store(url))
    assert Stored(store, Serial()).run(trials(store, "a")).results == {"a": 1000}
    run = {"runs/a/run.json", "runs/a/album/weights", "runs/a/result.json"}
    assert names_in(url) == {".selfexplain", "compare.json", *run}  # no lock
    written = store.folder
    on_machine("second", tmp_path, monkeypatch)
    store.begin()
    assert store.folder != written
    assert (store.folder / "compare.json").read_text() == "{}"
    for name in run:
        assert (store.folder / name).read_bytes() == (written / name).read_bytes()


def test_workers_of_this_machine_fill_the_storage(tmp_path: Path) -> None:
    store = begun(Store(f"file://{tmp_path}/kept"))
    outcome = Stored(store, LocalWorkers(2)).run(trials(store, "a", "b"))
    assert outcome.results == {"a": 1000, "b": 1000}
    assert {"runs/a/result.json", "runs/b/result.json"} < names_in(store.url)


def test_run_of_a_machine_that_was_lost_afterwards_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begun(Store("memory://sweep"))
    Stored(store, Serial()).run(trials(store, "a"))
    run = store.folder / "runs/a/run.json"
    run.write_text(by := "the first machine")
    store._push(["runs/a/run.json"])
    on_machine("second", tmp_path, monkeypatch)
    # Which has not looked, as one where a trial is tried again.
    store.folder.mkdir(parents=True)
    Stored(store, Serial()).run(trials(store, "a"))
    assert (store.folder / "runs/a/run.json").read_text() == by
    assert (store.folder / "runs/a/result.json").exists()


def test_folders_that_a_bucket_lists_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun(Store("memory://sweep"))
    Stored(store, Serial()).run(trials(store, "a"))
    find = MemoryFileSystem.find
    with_folders = lambda self, path: [f"{path}/", f"{path}/runs/", *find(self, path)]  # noqa: E731
    monkeypatch.setattr(MemoryFileSystem, "find", with_folders)
    shutil.rmtree(store.folder)
    store.begin()
    assert (store.folder / "runs/a/result.json").read_text() == "a"


def test_unfinished_runs_stay_on_their_machine() -> None:
    store = begun(Store("memory://sweep"))
    half = store.folder / "runs" / "half"
    half.mkdir(parents=True)
    (half / "run.json").touch()
    (half / "checkpoint.pt").touch()
    (store.folder / "table.md").touch()
    (store.folder / ".images").mkdir()
    (store.folder / ".images" / "decoded").touch()
    store.push()
    assert names_in(store.url) == {".selfexplain", "compare.json", "table.md"}


def test_storage_that_is_lost_in_mid_comparison_ends_it_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Broken, "takes", 4)
    words = ["compare", *DATA, "--train-size", "50", "--epochs", "1", "--batch-size", "50"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--objectives", "standard", "--seeds", "0", "--out", "broken://b/sweep"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    folder = Store("broken://b/sweep").folder
    assert f"what was computed is in {folder}; what its runs have finished is kept" in said
    assert (folder / "runs/standard-seed0/result.json").exists()


def test_storage_that_is_lost_in_mid_sweep_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is broken off with one sentence, and goes on from what this machine has."""
    store = begun(Store("broken://bucket/sweep"))
    monkeypatch.setattr(Broken, "takes", 5)  # compare.json, a, and the first file of b
    news: list[tuple[str, Message]] = []
    with pytest.raises(WriteError, match=r"broken://bucket/sweep cannot be written to \(Conn"):
        Stored(store, Serial()).run(
            trials(store, "a", "b", "c"), lambda name, message: news.append((name, message))
        )
    assert [name for name, message in news if isinstance(message, Done)] == ["a"]
    assert "runs/a/result.json" in names_in(store.url)
    assert "runs/b/result.json" not in names_in(store.url)
    by = (store.folder / "runs/b/run.json").read_text()
    assert (store.folder / "runs/b/result.json").exists()
    monkeypatch.setattr(Broken, "takes", float("inf"))
    store.begin()
    Stored(store, Serial()).run(trials(store, "b", "c"))
    assert {f"runs/{run}/result.json" for run in "abc"} < names_in(store.url)
    assert (store.folder / "runs/b/run.json").read_text() == by


def small(out: str, **more: Any) -> CompareConfig:
    return CompareConfig(
        data=DataOptions(data="digits", train_size=50),
        objectives=("standard",),
        training=TrainingOptions(epochs=1, batch_size=50),
        out=Path(out),
        **more,
    )


def test_comparison_is_continued_by_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_comparison(small("memory://team/digits", seeds=(0,)))
    assert {"compare.json", "results.json", "cost/seed0.json"} < names_in("memory://team/digits")
    on_machine("second", tmp_path, monkeypatch)
    started = []

    def watch(name: str, message: Message) -> None:
        if isinstance(message, Started):
            started.append(name)

    both = run_comparison(small("memory://team/digits", seeds=(0, 1)), watch)
    assert started == ["standard-seed1"]
    assert both["rows"][0] == first["rows"][0]
    assert "runs/standard-seed1/model.safetensors" in names_in("memory://team/digits")
    with pytest.raises(InputError, match="holds a run with other options"):
        run_comparison(small("memory://team/digits", model="resnet20"))


SEARCHES = "search --method random --space tiny201 --seeds 0 1"
STUDY = "nas-study --methods random --space tiny201 --table tiny201 --budget 1 --seeds 0 1"


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (SEARCHES, {"searches.json", "seed0/genotype.json", "seed1/result.json", "report.html"}),
        (STUDY, {"nas-study.json", "results.json", "table.md", "table.tex", "report.html"}),
    ],
)
def test_searches_in_storage(
    words: str,
    files: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command line; another machine then finds nothing left to search."""
    command = [
        *words.split(),
        "--data",
        "digits",
        "--train-size",
        "40",
        "--out",
        "memory://team/found",
    ]
    main(command)
    assert "Stored: memory://team/found" in capsys.readouterr().out
    assert files < names_in("memory://team/found")
    on_machine("second", tmp_path, monkeypatch)
    main(command)
    assert "begun" not in capsys.readouterr().out


def refused(config: CompareConfig, said: str) -> None:
    with pytest.raises(InputError, match=said), stored(config):
        raise AssertionError("nothing is to be trained")


def test_storage_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"class": "absent_package.AbsentFS", "err": "Install absent_package for absent"}
    monkeypatch.setitem(known_implementations, "absent", known)
    refused(small("absent://b/x"), r"needs a package .* \(Install absent_package for absent\)")
    refused(small("nope://b/x"), r"nope://b/x cannot be used \(Protocol not known: nope\)")
    monkeypatch.setattr(Broken, "takes", 0)
    refused(small("broken://b/x"), r"broken://b/x cannot be reached or written to \(Connection")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    refused(small(f"file://{tmp_path}/thesis"), "is not empty but contains no comparison")
    refused(small(f"file://{tmp_path}/thesis/chapter.tex"), "is a file; pass another --out")
    refused(small("memory://x", sweep=SweepOptions(workers=2)), "in the memory of one process")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(small("memory://x"), "runs of one process each; leave out --devices")


@pytest.mark.parametrize(
    "words",
    [
        ("train", *DATA, "--out", "s3://bucket/run"),
        ("train", *DATA, "--out", "s3:/bucket/run"),
        ("train", *DATA, "--teacher", "gs://bucket/run"),
        ("finetune", *DATA, "--out", "abfs://bucket/run"),
        ("retrain", *DATA, "--genotype", "published:DARTS_V2", "--out", "memory://run"),
        ("search", *DATA, "--out", "file:///tmp/run"),
        ("compare", *DATA, "--image-cache", "s3://bucket/images"),
        ("explain", "--run", "x", "--images", "a.png", "--out", "s3://bucket/a.png"),
        ("export", "--run", "s3://bucket/run", "--out", "x"),
        ("report", "s3://bucket/run"),
        ("table", "s3://bucket/run"),
        ("app", "--run", "s3://bucket/run"),
        ("demo", "--out", "https://127.0.0.1/x"),
    ],
)
def test_urls_elsewhere_are_refused(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And no folder is made that is named s3: or the like."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "only --out of compare, study-kd, search --seeds and nas-study may be a URL" in said
    assert said.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/a//b", "s3://bucket/a/b"),
        ("file:///tmp/a", "file:///tmp/a"),
        ("file://tmp/a", "file:///tmp/a"),
        ("memory://a", "memory://a"),
        ("runs/a:b", None),
        ("runs/s3://x", None),
        ("C:/runs", None),
        ("a b://c", None),
        ("s3:", None),
    ],
)
def test_which_paths_are_urls(path: str, url: str | None) -> None:
    assert is_url(Path(path)) == (url is not None)
    assert url is None or url_of(Path(path)) == url
