"""Many trainings through a scheduler, none of them twice."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.data import ImageData
from selfexplain.errors import InputError
from selfexplain.experiments.data import load
from selfexplain.experiments.fit.train import StepCallback, run_training
from selfexplain.experiments.options import (
    DataOptions,
    DeviceOptions,
    RunConfig,
    SweepOptions,
    TrainConfig,
    first_process,
    process_count,
)
from selfexplain.experiments.read_records import read_own_result, read_search_result
from selfexplain.experiments.run_dir import claim_folder
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import write_json
from selfexplain.launchers import Done, Outcome, Scheduler, Store, Trial, Watch, ignore
from selfexplain.training.loop import DivergedError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# Trials of options: ordinary runs that may diverge without ending what they are trials for.


TrialResult = dict[str, Any] | None
"""What `result.json` of a trial holds; None if it diverged."""
RunTrials = Callable[[Sequence[TrainConfig]], Sequence[TrialResult]]
"""Runs trials, which may be at the same time; gives their outcomes in the same order."""


def run_trial(config: TrainConfig, **context: Any) -> TrialResult:
    """Run one trial, unless it is known to diverge; a trial that diverges leaves a note of it."""
    note = config.out.with_name(f"{config.out.name}.diverged.json")
    if note.exists():
        return None
    try:
        return run_training(config, **context)
    except DivergedError as error:
        if first_process():
            write_json(note, {"error": str(error)})
        return None


LOCK_TIMEOUT = 30.0
"""Seconds that a trial waits for its folder: processes that a killed worker had started (to decode
images) hold its lock until they notice."""


def run_all(
    configs: Sequence[RunConfig],
    scheduler: Scheduler,
    watch: Watch = ignore,
    *,
    fabric: Fabric | None = None,
    data: ImageData | None = None,
    teachers: Path | None = None,
    images: Path | None = None,
    train: Callable[..., Any] = run_training,
) -> list[Any]:
    """Train every configuration; return what each run's `result.json` holds.

    Runs that are finished are not begun, others continue from their checkpoints.

    Args:
        configs: each with a folder of its own.
        scheduler: carries them out.
        watch: is told of every run, by its folder within the folder that all share.
        fabric: for a scheduler in this process: launched, in place of one a run.
        data: for a scheduler in this process: the data set, if all have the same.
        teachers: folder of the teachers that are trained for these runs, which share them; None for
            one in each run's folder.
        images: for a scheduler of workers: folder of the decoded images that they share; None to
            have each decode its own.
        train: what is called for each configuration, as `run_training` is; a function that a worker
            can import. Its results are returned.

    Raises:
        InputError: a run could not be made; the others have been made by then.

    Example:
        >>> import tempfile
        >>> from selfexplain.experiments.options import DataOptions, TrainConfig
        >>> from selfexplain.launchers import Serial
        >>> from selfexplain.training import TrainingOptions
        >>> out = Path(tempfile.mkdtemp())
        >>> configs = [
        ...     TrainConfig(
        ...         data=DataOptions(data="digits", train_size=100),
        ...         training=TrainingOptions(epochs=1, batch_size=50),
        ...         seed=seed,
        ...         out=out / f"seed{seed}",
        ...     )
        ...     for seed in (0, 1)
        ... ]
        >>> [result["seed"] for result in run_all(configs, Serial())]
        [0, 1]
    """

    def train_serially(config: RunConfig, on_step: StepCallback) -> Any:
        return train(config, fabric=fabric, data=data, on_step=on_step, teachers=teachers)

    isolated = partial(train_isolated, train=train, teachers=teachers, images=images)
    function = isolated if scheduler.isolated else train_serially
    return list(run_grid(function, configs, scheduler, watch).complete().values())


def run_grid(
    function: Callable[[Any, StepCallback], Any],
    configs: Sequence[Any],
    scheduler: Scheduler,
    watch: Watch = ignore,
) -> Outcome:
    """Call `function(config, on_step)`, which runs one configuration, on all of them.

    Each has a folder of its own, `out`, where the function leaves `result.json`. Results and
    failures are named by these, within the folder that all share, in the order of the
    configurations; so is every run that `watch` is told of.
    """
    named = dict(zip(run_names([c.out for c in configs]), configs, strict=True))
    finished = {}
    trials = []
    for name, config in named.items():
        resumed = dataclasses.replace(config, resume=True)
        if (config.out / "result.json").exists():
            claim_folder(resumed)  # raises if it is another run's
            finished[name] = read_own(config)
            watch(name, Done(finished[name]))
        else:
            trials.append(Trial(name, function, resumed))
    outcome = scheduler.run(trials, watch)
    results = finished | outcome.results
    return Outcome({name: results[name] for name in named if name in results}, outcome.failures)


def read_own(config: Any) -> dict[str, Any]:
    """The result of a finished training or search in its own folder, checked."""
    path = config.out / "result.json"
    if isinstance(config, SearchConfig):
        return read_search_result(path)
    return read_own_result(path, config.objective, config.seed)


def run_names(folders: Sequence[Path]) -> list[str]:
    """What to call runs: their folders within the folder that all share."""
    if len(set(folders)) != len(folders):
        raise InputError("two runs have the same folder; pass each a folder of its own")
    if not folders:
        return []
    whole = [folder.absolute() for folder in folders]
    shared = os.path.commonpath([folder.parent for folder in whole])
    return [folder.relative_to(shared).as_posix() for folder in whole]


def train_isolated(
    config: RunConfig,
    on_step: StepCallback,
    *,
    train: Callable[..., Any],
    teachers: Path | None,
    images: Path | None,
) -> Any:
    """Train in a worker, which keeps the data set for its next run."""
    return train(
        config,
        data=loaded(config.data, images),
        on_step=on_step,
        lock_timeout=LOCK_TIMEOUT,
        teachers=teachers,
    )


@lru_cache(maxsize=1)
def loaded(options: DataOptions, images: Path | None = None) -> ImageData:
    """The data set, kept for the next call. For workers, which end with their sweep."""
    return load(options, images)


@contextmanager
def shared_images(sweep: SweepOptions, out: Path) -> Iterator[Path | None]:
    """The folder in which a sweep keeps its decoded images; None if nobody would look there.

    The user's own stays; that in the folder of the sweep is deleted when the sweep is finished,
    and not when it is broken off, for it will be continued.

    Args:
        sweep: how the runs are spread.
        out: folder of the sweep.

    Example:
        >>> with shared_images(SweepOptions(workers=2), Path("absent")) as folder:
        ...     print(folder)
        absent/.images
    """
    if sweep.image_cache is not None or not sweep.isolated:
        yield sweep.image_cache
        return
    own = out / ".images"
    yield own
    shutil.rmtree(own, ignore_errors=True)


# Sweeps whose folder is in storage that a URL names.


@contextmanager
def stored(config: Any) -> Iterator[tuple[Any, Store | None]]:
    """A sweep as it is on this machine, and where its folder is stored if `out` is a URL.

    What is stored already is copied here first; what was added, to the storage at the end, but not
    when the sweep is broken off: its finished runs are there by then.

    Args:
        config: a dataclass with `out` and `sweep`.

    Raises:
        InputError: the storage cannot be reached, or the runs cannot use it.

    Example:
        >>> from selfexplain.experiments.options import CompareConfig
        >>> config = CompareConfig(data=DataOptions(data="digits"), out=Path("memory://sweep"))
        >>> with stored(config) as (here, store):
        ...     store.url, here.out == store.folder
        ('memory://sweep', True)
    """
    store = Store.of(config.out)
    if store is None:
        yield config, None
        return
    devices = getattr(config, "device", DeviceOptions())
    if process_count(devices) > 1:
        raise InputError(
            f"{store.url} is written to by runs of one process each; leave out --devices and "
            "torchrun, or pass --out with a folder that all processes share"
        )
    if config.sweep.isolated and store.url.startswith("memory:"):
        raise InputError(
            f"{store.url} is in the memory of one process, and --workers and --cluster have "
            "several; leave them out, or pass another --out"
        )
    store.begin()
    yield dataclasses.replace(config, out=store.folder), store
    store.push()
