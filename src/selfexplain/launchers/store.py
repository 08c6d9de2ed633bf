"""Finished runs in storage that a URL names (`s3://...`, `file://...`), through fsspec.

Runs happen in a folder of the machine that they run on. When a run is finished, its folder is
copied to the storage, `result.json` last: where the storage holds one, the run is whole. Machines
that run trials need no file system in common.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from selfexplain.errors import InputError, WriteError, first_line
from selfexplain.files import atomic_file
from selfexplain.launchers.trials import Outcome, Scheduler, StepCallback, Trial, Watch, ignore
from selfexplain.limits import is_url, url_of

RESULT = "result.json"
"""In the folder of every finished run, and of no other."""
OURS = re.compile(r"compare\.json|nas-study\.json|searches\.json|study\.json|seed\d+")
"""One of these lies in the folder of several runs."""
PROBE = ".selfexplain"
"""Written to see whether the storage can be written to."""


@dataclass(frozen=True)
class Store:
    """The folder of several runs in storage, and its copy on this machine.

    Args:
        url: of the folder, `PROTOCOL://PATH`.

    Example:
        >>> Store("memory://sweeps/one").folder.name[:4]
        'one-'
    """

    url: str

    @classmethod
    def of(cls, out: Path) -> Store | None:
        """The storage that a path stands for; None for a path on this machine.

        Example:
            >>> Store.of(Path("s3://bucket/sweep")), Store.of(Path("runs/sweep"))
            (Store(url='s3://bucket/sweep'), None)
        """
        return cls(url_of(out)) if is_url(out) else None

    @property
    def folder(self) -> Path:
        """Where this machine keeps its copy: the same for the same URL, below the temporary folder.

        What a broken-off command, or one that could not reach the storage, has left there is
        continued.
        """
        user = os.getuid() if hasattr(os, "getuid") else ""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.-]", "_", PurePosixPath(self.url).name)[:40]
        return Path(tempfile.gettempdir()) / f"selfexplain-{user}" / f"{name}-{digest}"

    def begin(self) -> None:
        """See that the storage can be used, and copy what it holds of these runs.

        Raises:
            InputError: it cannot be reached or written to, it needs a package that is not
                installed, or the folder there holds something else.
        """
        system, root = self._opened()
        with self._reached():
            if system.isfile(root):
                raise InputError(f"{self.url} is a file; pass another --out")
            present = system.ls(root, detail=False) if system.exists(root) else []
            names = {PurePosixPath(str(path)).name for path in present} - {PROBE}
        if names and not any(OURS.fullmatch(name) for name in names):
            raise InputError(
                f"{self.url} is not empty but contains no comparison, searches or study; pass "
                "another --out"
            )
        with self._reached():
            system.makedirs(root, exist_ok=True)
            system.pipe_file(f"{root}/{PROBE}", b"")
        self.pull()

    def pull(self, part: str = "") -> None:
        """Copy what the storage holds, all or below `part`, to this machine.

        Runs that are finished here are left alone.
        """
        system, root = self._opened()
        with self._reached():
            start = f"{root}/{part}".rstrip("/")
            found = system.find(start) if system.exists(start) else []
            # Buckets may list folders as empty files, whose names end with a slash.
            paths = [PurePosixPath(str(path)) for path in found if not str(path).endswith("/")]
            names = [str(path.relative_to(root)) for path in paths]
            names = [name for name in names if not _hidden(PurePosixPath(name))]
            finished = {PurePosixPath(n).parent for n in names if PurePosixPath(n).name == RESULT}
            for name in sorted(names, key=_result_last):
                runs = [run for run in PurePosixPath(name).parents if run in finished]
                if any(self.has(run.as_posix()) for run in runs):
                    continue
                with (
                    system.open(f"{root}/{name}", "rb") as there,
                    atomic_file(self.folder / name) as here,
                ):
                    shutil.copyfileobj(there, here)

    def has(self, part: str) -> bool:
        """Whether this machine holds a finished run."""
        return (self.folder / part / RESULT).exists()

    def push_run(self, part: str) -> None:
        """Copy the folder of a finished run to the storage, unless it is there.

        Raises:
            WriteError: the storage cannot be written to; the folder on this machine is kept.
        """
        if not self.holds(part):
            names = [f"{part}/{name}" for name in _files_in(self.folder / part)]
            self._push(sorted(names, key=_result_last))

    def holds(self, part: str) -> bool:
        """Whether the storage holds a finished run."""
        system, root = self._opened()
        with self._reached():
            return bool(system.exists(f"{root}/{part}/{RESULT}"))

    def push(self, *, runs: bool = True) -> None:
        """Copy to the storage what belongs to no single run, and finished runs that it lacks.

        Args:
            runs: whether also runs.
        """
        folders = {
            path.parent.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("run.json")
            if not _hidden(path.relative_to(self.folder))
        }
        outermost = {f for f in folders if not any(f.startswith(f"{o}/") for o in folders)}
        if runs:
            for part in sorted(outermost):
                if self.has(part):
                    self.push_run(part)
        self._push(
            name
            for name in _files_in(self.folder)
            if not any(name.startswith(f"{part}/") for part in outermost)
        )

    def _push(self, names: Iterator[str] | Sequence[str]) -> None:
        system, root = self._opened()
        local = type(system).__name__ == "LocalFileSystem"
        for name in names:
            with open(self.folder / name, "rb") as here, self._written():  # noqa: PTH123
                if local:  # it alone writes under the final name from the first byte on
                    with atomic_file(Path(root, name)) as there:
                        shutil.copyfileobj(here, there)
                    continue
                system.makedirs(str(PurePosixPath(root, name).parent), exist_ok=True)
                with system.open(f"{root}/{name}", "wb") as remote:
                    shutil.copyfileobj(here, remote)

    def _opened(self) -> tuple[Any, str]:
        """The file system of fsspec, and the folder in it."""
        import fsspec  # not above: the command line reads options without it

        try:
            system, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise InputError(
                f"{self.url} needs a package that is not installed ({first_line(error)}); install "
                "it, or pass --out with a folder"
            ) from error
        except Exception as error:  # of a protocol, an address, or what the package makes of them
            raise InputError(
                f"{self.url} cannot be used ({first_line(error)}); pass --out with a URL such as "
                "s3://BUCKET/NAME, or with a folder"
            ) from error
        system.invalidate_cache()  # of what other machines have written since
        return system, str(root).rstrip("/")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say in one sentence that the storage cannot be reached."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever the package of the protocol raises
            raise InputError(
                f"{self.url} cannot be reached or written to ({_reason(error)}); see to its "
                "address and your permissions, or pass --out with a folder"
            ) from error

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Say in one sentence that the storage takes no more, which ends a sweep."""
        try:
            yield
        except Exception as error:
            said = WriteError(
                f"{self.url} cannot be written to ({_reason(error)}); what was computed is in "
                f"{self.folder}"
            )
            said.kept = "the same command again copies it"
            raise said from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:200]


def _hidden(path: PurePosixPath | Path) -> bool:
    """Whether it is a lock, a file that is being written, or decoded images."""
    return any(part.startswith(".") for part in path.parts)


def _result_last(name: str) -> tuple[bool, str]:
    return PurePosixPath(name).name == RESULT, name


def _files_in(folder: Path) -> list[str]:
    """Names of the files below a folder that are to be kept."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in paths if not _hidden(path))


# Trials whose folders go to the storage.


def run_stored(
    config: Any,
    on_step: StepCallback,
    *,
    function: Callable[[Any, StepCallback], Any],
    store: Store,
    part: str,
) -> Any:
    """Carry out a trial in this machine's copy, and copy its folder to the storage.

    Args:
        config: of the trial, with `out`.
        on_step: called by the trial.
        function: of the trial.
        store: where its folder is copied to.
        part: the trial's folder within the store's.
    """
    if store.holds(part):  # finished on a machine that was lost before it could say so
        store.pull(part)
    result = function(dataclasses.replace(config, out=store.folder / part), on_step)
    if store.has(part):  # a trial of options that diverged has none
        store.push_run(part)
    return result


@dataclass(frozen=True)
class Stored:
    """A scheduler whose trials leave their folders in storage.

    Args:
        store: the storage; all trials have folders in `store.folder`.
        scheduler: runs them.

    Example:
        >>> from selfexplain.launchers import Serial
        >>> Stored(Store("memory://sweep"), Serial()).isolated
        False
    """

    store: Store
    scheduler: Scheduler

    @property
    def isolated(self) -> bool:
        """Whether trials run in other processes than the one that asks for them."""
        return self.scheduler.isolated

    def run(self, trials: Sequence[Trial], watch: Watch = ignore) -> Outcome:
        """Carry out all trials; afterwards this machine, too, has the folders of those finished."""
        self.store.push(runs=False)  # with what runs these are, so that others may continue them
        parts = {t.name: t.argument.out.relative_to(self.store.folder).as_posix() for t in trials}
        stored = [
            dataclasses.replace(
                trial,
                function=partial(
                    run_stored, function=trial.function, store=self.store, part=parts[trial.name]
                ),
            )
            for trial in trials
        ]
        outcome = self.scheduler.run(stored, watch)
        for name in outcome.results:
            if not self.store.has(parts[name]):
                self.store.pull(parts[name])
        return outcome
