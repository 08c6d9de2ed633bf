"""A quarter of an hour of one GPU, used to the last second: results/gpu/quarter-hour.sh.

Stages are walked in order, each with the time that is left. A stage that could not finish a unit of
its work (a run, say) in that time is not begun; one that runs out of time is ended, and what it has
finished is kept. The same call again goes on: `compare` skips the runs that are finished, and
continues others from their checkpoints while those lie there.

    python -m studies.quarter_hour                # all stages
    python -m studies.quarter_hour fast costs     # these alone, in this order
    python -m studies.quarter_hour tables         # anywhere: the tables of what is finished

Settings are environment variables, see `Settings`.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from studies import archive

# Walking through stages by the clock.


class Process(Protocol):
    """What is asked of a command that has been started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the quarter of an hour.

    Attributes:
        name: of the stage.
        command: with its arguments; a function, for it is asked when the stage begins.
        left: how many units of the work are not finished, as the files say.
        least: seconds within which a unit can be finished; with less the stage is not begun.
        most: seconds that it may take.
        end_with_units: end the command when no unit is left, whatever else it would do.
    """

    name: str
    command: Callable[[], list[str]]
    left: Callable[[], int]
    least: float
    most: float = math.inf
    end_with_units: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage went.

    Attributes:
        stage: its name.
        how: "done", "nothing left", "not begun", "out of time", "stopped" or "failed".
        seconds: that it took.
        left: units before and after.
    """

    stage: str
    how: str
    seconds: float
    left: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class World:
    """The clock and the processes, which tests replace."""

    start: Callable[[Stage], Process]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    stopped: Callable[[], bool] = lambda: False


LOOK_EVERY = 0.25
"""Seconds between two looks at a command."""
GRACE = 5.0
"""Seconds that a command has to end when it is asked to."""


def walk(stages: Iterable[Stage], budget: float, world: World) -> Iterator[Outcome]:
    """Walk through the stages until the time is over; yields how each went, after it.

    Args:
        stages: in order.
        budget: seconds for all of them, from now.
        world: where they run.
    """
    end = world.clock() + budget
    for stage in stages:
        outcome = _run(stage, min(stage.most, end - world.clock() - GRACE), world)
        print(
            f"{stage.name}: {outcome.how} after {outcome.seconds:.0f} s, "
            f"{outcome.left[0] - outcome.left[1]} finished, {outcome.left[1]} left, "
            f"{end - world.clock():.0f} s to go",
            flush=True,
        )
        yield outcome


def _run(stage: Stage, limit: float, world: World) -> Outcome:
    """One stage, for so many seconds at most."""
    before = stage.left()
    if before == 0 or limit < stage.least or world.stopped():
        how = "nothing left" if before == 0 else "not begun"
        return Outcome(stage=stage.name, how=how, seconds=0.0, left=(before, before))
    begun = world.clock()
    process = world.start(stage)
    how = None
    try:
        while how is None and process.poll() is None:
            how = _reason_to_end(stage, world.clock() - begun, limit, world)
            if how is None:
                world.sleep(LOOK_EVERY)
    finally:
        _end(process)
    how = how or ("done" if process.poll() == 0 else "failed")
    return Outcome(
        stage=stage.name, how=how, seconds=world.clock() - begun, left=(before, stage.left())
    )


def _reason_to_end(stage: Stage, seconds: float, limit: float, world: World) -> str | None:
    if world.stopped():
        return "stopped"
    if seconds >= limit:
        return "out of time"
    return "done" if stage.end_with_units and stage.left() == 0 else None


def _end(process: Process) -> None:
    """End a command that still runs: asked first, then not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# What the stages are.


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Environment variables, in lower case here, and what they are where they are not set."""

    budget: float = 780.0
    """Seconds for all stages of this call."""
    results: str = "results"
    """Folder with baselines/ and gpu/, into which everything is written."""
    accelerator: str = "auto"
    """As for `compare`. Steps are captured, compiled and in bf16 unless it is cpu."""
    toy: str = ""
    """1: a few digits, small networks, one epoch and one seed, to try the script itself."""
    workers: int = 4
    """Runs of ResNet-18 side by side."""
    fast_workers: int = 6
    """Runs of the fast recipe side by side."""
    fast_epochs: int = 30
    """Epochs of the fast recipe."""
    keep: str = ""
    """Folder for quarter-hour.tar.gz, with all that was written but weights; empty for none."""

    @classmethod
    def of(cls, variables: dict[str, str]) -> Settings:
        """Settings of environment variables."""
        plain = cls()
        given = {
            name: type(getattr(plain, name))(variables[name.upper()])
            for name in vars(plain)
            if variables.get(name.upper())
        }
        return replace(plain, **given)


SIX = ("standard", "label_smoothing", "ps_kd", "own_mass:kappa=0", "own_mass", "introspective")
"""The methods of the fast recipe: the baselines, own mass and its even control, and the default."""
CONTROLLED = (
    *("standard", "label_smoothing", "ps_kd", "introspective"),
    *("introspective:control=permuted", "introspective:control=uniform"),
    *("own_mass:kappa=0", "own_mass", "own_mass:control=permuted", "own_mass:cap=0.2", "cs_kd"),
)
"""The methods that are trained for 30 epochs: those above, with their controls, and CS-KD."""
LONG = ("standard", "label_smoothing", "ps_kd", "own_mass", "introspective")
"""The methods that are trained for 200 epochs."""
RESNET = ("--model", "resnet18")
FAST = (
    *("--model", "fast_cnn", "--batch-size", "512", "--lr", "0.4", "--warmup-epochs", "3"),
    "--alternate-flip",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One call of `compare`: its units are runs, and at last the costs of some seeds."""

    settings: Settings
    out: Path
    options: tuple[str, ...]
    objectives: tuple[str, ...]
    seeds: tuple[int, ...]
    workers: int

    def command(self, *more: str) -> list[str]:
        """The command line, the same for every call, so that the comparison is continued."""
        words = [sys.executable, "-m", "selfexplain", "compare", *self._data(), *self.options]
        if self.settings.accelerator != "cpu":
            words += ["--precision", "bf16", "--cuda-graph", "--compile"]
        words += ["--accelerator", self.settings.accelerator]
        words += ["--objectives", *self.objectives, "--seeds", *map(str, self.seeds)]
        words += ["--workers", str(self.workers), "--image-cache", str(images_of(self.settings))]
        return [*words, "--out", str(self.out), *more]

    def _data(self) -> list[str]:
        if self.settings.toy:
            return ["--data", "digits", "--train-size", "100"]
        return ["--data", "parquet:data/cifar100"]

    def runs_left(self) -> int:
        """Runs that are not finished."""
        from selfexplain.experiments.fit.teacher import run_folder  # with torch: on the clock

        folders = [run_folder(self.out, o, seed) for seed in self.seeds for o in self.objectives]
        return sum(not (folder / "result.json").exists() for folder in folders)

    def costs_left(self) -> int:
        """Seeds whose costs are not timed, or cannot be read; none while runs are not finished."""
        if self.runs_left():
            return 0
        return sum(not self._timed(seed) for seed in self.seeds)

    def _timed(self, seed: int) -> bool:
        from selfexplain.errors import InputError
        from selfexplain.experiments.compare.compare import timed_costs

        try:
            return set(self.objectives) <= timed_costs(self.out, seed).keys()
        except InputError:  # which the comparison will say
            return False


def images_of(settings: Settings) -> Path:
    """Folder of the decoded images that all comparisons share."""
    return Path(settings.results, "gpu", "images")


def comparisons(settings: Settings) -> dict[str, Comparison]:
    """Name -> the comparisons: 30 epochs, the fast recipe, and 200 epochs a seed at a time."""
    results, toy = Path(settings.results), bool(settings.toy)

    def comparison(
        place: str, epochs: int, words: Sequence[str], methods: tuple[str, ...], seeds: int
    ) -> Comparison:
        fast = words[1] == "fast_cnn"
        if toy:
            words = ("--model", "fast_cnn" if fast else "small_cnn", "--batch-size", "50")
        return Comparison(
            settings=settings,
            out=results / place,
            options=(*words, "--epochs", str(1 if toy else epochs)),
            objectives=methods[:2] if toy else methods,
            seeds=tuple(range(1 if toy else seeds)),
            workers=settings.fast_workers if fast else settings.workers,
        )

    found = {
        "30-epochs": comparison("baselines/gpu-30", 30, RESNET, CONTROLLED, 3),
        "fast": comparison("gpu/fast", settings.fast_epochs, FAST, SIX, 10),
    }
    for count in range(1, 2 if toy else 4):
        found[f"200-epochs-seed{count - 1}"] = comparison(
            "baselines/gpu-200", 200, RESNET, LONG, count
        )
    return found


LEAST = {
    "30-epochs": 90.0,
    "fast": 45.0,
    "200-epochs": 290.0,
    "costs": 60.0,
    "cuda": 30.0,
    "steps": 60.0,
}
"""Seconds that a unit takes at least: a captured ResNet-18 takes 30 epochs in 35 s alone, 200 in
240 s; and processes have to start."""
CUDA_SECONDS = 120.0
"""Seconds for tests/cuda, of which some train for a minute."""
TIMED_SEEDS = 3
"""Seeds whose costs are timed."""


def stages_of(settings: Settings) -> dict[str, Stage]:
    """Name -> stage, in order. Costs are timed after the runs, and before the longest ones."""
    found = comparisons(settings)
    runs = {name: _runs_stage(name, each, bool(settings.toy)) for name, each in found.items()}
    long = {name: runs.pop(name) for name in list(runs) if name.startswith("200")}
    costs = {f"costs-{name}": _costs_stage(name, found[name], settings) for name in runs}
    return {"cuda": _cuda_stage(settings), **runs, **costs, "steps": _steps_stage(settings), **long}


def _runs_stage(name: str, comparison: Comparison, toy: bool) -> Stage:
    return Stage(
        name=name,
        command=comparison.command,
        left=comparison.runs_left,
        least=1.0 if toy else LEAST[name.partition("-seed")[0]],
        end_with_units=True,  # the costs come after all runs, those of other stages too
    )


def _costs_stage(name: str, comparison: Comparison, settings: Settings) -> Stage:
    timed = replace(comparison, seeds=comparison.seeds[:TIMED_SEEDS])
    return Stage(
        name=f"costs-{name}",
        command=timed.command,
        left=timed.costs_left,
        least=1.0 if settings.toy else LEAST["costs"],
    )


def _cuda_stage(settings: Settings) -> Stage:
    """Those of the tests that have not passed in an earlier call; the quick files first."""
    log = _log("cuda", settings)

    def command() -> list[str]:
        words = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider"]
        for name in passed_tests(log):
            words += ["--deselect", name]
        return [
            *words,
            *(
                f"tests/cuda/test_{name}.py"
                for name in ("steps", "search_steps", "numbers", "commands")
            ),
        ]

    def left() -> int:
        """1 until all have passed; how many tests there are is not known before."""
        return int(not re.search(r"\b\d+ passed\b.* in [\d.]+s", last_line(log)) or _failed(log))

    return Stage(name="cuda", command=command, left=left, least=LEAST["cuda"], most=CUDA_SECONDS)


def _steps_stage(settings: Settings) -> Stage:
    """Milliseconds of steps as written and recorded, of searches at full size among them."""
    group, path = "ways_of_stepping", Path("results/benchmarks/cuda.json")

    def left() -> int:
        """1 until they are measured; nothing on a CPU."""
        if settings.accelerator == "cpu":
            return 0
        found = json.loads(path.read_text())["groups"].get(group) if path.exists() else None
        return int(found is None or not found.get("complete", True))

    command = [sys.executable, "-m", "benchmarks.run", group]
    return Stage(name="steps", command=lambda: command, left=left, least=LEAST["steps"])


def passed_tests(log: Path) -> list[str]:
    r"""Names of the tests that a log of pytest's says have passed.

    Example:
        >>> import tempfile
        >>> log = Path(tempfile.mkdtemp()) / "cuda.log"
        >>> _ = log.write_text("a.py::x[b c] PASSED [ 50%]\na.py::y FAILED [100%]\n")
        >>> passed_tests(log)
        ['a.py::x[b c]']
    """
    if not log.exists():
        return []
    return re.findall(r"^(\S+::.+?) PASSED\b", log.read_text(errors="replace"), re.MULTILINE)


def _failed(log: Path) -> bool:
    return bool(re.search(r"\b\d+ (failed|error)", last_line(log)))


# Files: logs, a line for each stage of each call, tables, and one file to take along.


def _calls(settings: Settings) -> Path:
    return Path(settings.results, "gpu", "calls.jsonl")


def note(outcome: Outcome, settings: Settings) -> None:
    """Append how a stage went to calls.jsonl."""
    path = _calls(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(vars(outcome)) + "\n")


def _log(name: str, settings: Settings) -> Path:
    return Path(settings.results, "gpu", f"{name}.log")


def last_line(log: Path) -> str:
    """What a command said last."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def started(stage: Stage, settings: Settings) -> subprocess.Popen[bytes]:
    """Start a stage; what it says is appended to its log."""
    log = _log(stage.name, settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - our own commands
            stage.command(), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )


def make_tables(settings: Settings) -> None:
    """The table of every comparison that has a finished run of its first objective."""
    for name, comparison in comparisons(settings).items():
        if (comparison.out / "compare.json").exists():
            print(f"{name}:", flush=True)
            subprocess.run(comparison.command("--finished-only"), check=False)  # noqa: S603


KEPT = {*archive.SUFFIXES, ".md", ".gz"}
"""What is taken along; of runs, logs.tar.gz alone."""


def pack(settings: Settings) -> None:
    """Write the archives of logs and, where it was asked for, one file with everything."""
    root = Path(settings.results)
    files = []
    for study in (root / "baselines", root / "gpu"):
        if study.exists():
            archive.pack(study)
            raw = {study / name for name in archive.raw_logs(study)}
            files += [p for p in sorted(study.rglob("*")) if p.suffix in KEPT and p not in raw]
    if settings.keep:
        Path(settings.keep).mkdir(parents=True, exist_ok=True)
        with tarfile.open(Path(settings.keep, "quarter-hour.tar.gz"), "w:gz") as tar:
            for path in files:
                if path.is_file() and images_of(settings) not in path.parents:
                    tar.add(path, path.relative_to(root))


def main(names: Sequence[str], begun: float) -> None:
    """Walk through the stages of these names, or all; SIGTERM ends the walk, and all is kept.

    Args:
        names: of stages, or their beginnings; or tables.
        begun: when the budget began, by the monotonic clock.
    """
    settings = Settings.of(dict(os.environ))
    stages = stages_of(settings)
    chosen = _chosen(names, stages)
    for study in ("baselines", "gpu"):
        archive.unpack(Path(settings.results, study))  # what is finished is not done again
    if list(names) == ["tables"]:
        make_tables(settings)
        return
    _check_device(settings)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))

    def start(stage: Stage) -> Process:
        process = started(stage, settings)
        # Looking at the next stages takes imports of seconds: while this one works, they cost none.
        for each in chosen:
            each.left()
        return process

    world = World(start=start, stopped=lambda: bool(signals))
    decoding = None if settings.toy else _decode_ahead(settings)
    try:
        for outcome in walk(chosen, settings.budget - (time.monotonic() - begun), world):
            note(outcome, settings)
            if outcome.how == "failed":
                print(f"  {last_line(_log(outcome.stage, settings))}", flush=True)
    finally:
        if decoding is not None:
            _end(decoding)
        pack(settings)


def _chosen(names: Sequence[str], stages: dict[str, Stage]) -> list[Stage]:
    """The stages that are meant, in the order in which they are named; all if none is."""
    if not names:
        return list(stages.values())
    groups = {name: [s for n, s in stages.items() if n.startswith(name)] for name in names}
    for name, found in groups.items():
        if not found and list(names) != ["tables"]:
            sys.exit(f"there is no stage {name}; pass tables, or some of {', '.join(stages)}")
    return [stage for found in groups.values() for stage in found]


def _check_device(settings: Settings) -> None:
    """Leave unless there is the GPU that is to be used: its tests would be skipped, not passed."""
    import torch

    if settings.accelerator != "cpu" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device; pass ACCELERATOR=cpu TOY=1 to try the script")


def _decode_ahead(settings: Settings) -> subprocess.Popen[bytes]:
    """Decode the images while the GPU is tested; comparisons wait for them, and share them."""
    code = (
        "import sys; from pathlib import Path; from selfexplain.data import load_data; "
        "load_data(sys.argv[1], kept_in=Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, "parquet:data/cifar100", str(images_of(settings))]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command


if __name__ == "__main__":
    main(sys.argv[1:], time.monotonic())
