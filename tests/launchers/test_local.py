"""Schedulers on this machine: every trial to its end, once, whatever happens to its worker."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.helpers import sweep_trials
from tests.helpers.sweep_trials import STEPS, count_up, diary, trials

from selfexplain.errors import InputError, WriteError
from selfexplain.experiments.run_dir import kept_said
from selfexplain.launchers import Done, Failed, LocalWorkers, Serial, Started, StepsDone, Trial
from selfexplain.launchers.local import cores, gpus_here, worker_environment
from selfexplain.launchers.trials import sparing

SCHEDULERS = [Serial(), LocalWorkers(2)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but is not yet reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def gone_soon(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


class Watch:
    """Remembers the news, and kills a trial's worker once, after a step."""

    def __init__(self, kill: str | None = None, after: int = 2) -> None:
        self.news: list[tuple[str, object]] = []
        self.kill, self.after = kill, after

    def __call__(self, name, message) -> None:
        self.news.append((name, message))
        if name == self.kill and isinstance(message, StepsDone) and message.done >= self.after:
            self.kill = None
            os.kill(self.pids(name)[-1], signal.SIGKILL)

    def of(self, kind: type, name: str | None = None) -> list:
        return [m for n, m in self.news if isinstance(m, kind) and name in (None, n)]

    def pids(self, name: str | None = None) -> list[int]:
        return [started.pid for started in self.of(Started, name)]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["here", "local"])
def test_every_trial_runs_once(scheduler, tmp_path: Path) -> None:
    watch = Watch()
    several = [Trial(name, count_up, tmp_path / name) for name in "abc"]
    assert scheduler.run(several, watch).complete() == dict.fromkeys("abc", STEPS)
    for name in "abc":
        assert [line.split()[0] for line in diary(tmp_path, name)] == ["1", "2", "3", "4"]
        assert len(watch.of(Started, name)) == len(watch.of(Done, name)) == 1
        assert watch.of(StepsDone, name)[-1] == StepsDone(STEPS, STEPS)
    workers = {line.split()[2] for name in "abc" for line in diary(tmp_path, name)}
    assert len(workers) <= 2
    assert (str(os.getpid()) in workers) != scheduler.isolated
    assert scheduler.isolated is False or gone_soon(watch.pids())


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["here", "local"])
def test_bad_input_fails_a_trial_and_not_the_others(scheduler, tmp_path: Path) -> None:
    watch = Watch()
    outcome = scheduler.run(trials(tmp_path, sweep_trials.refused, count_up), watch)
    assert outcome.results == {"count_up": STEPS}
    assert watch.of(Failed) == [Failed("the loss became nan; pass a smaller --lr")]
    with pytest.raises(InputError, match=r"1 of 2 runs failed.* refused: the loss became nan"):
        outcome.complete()
    assert len(diary(tmp_path, "refused")) == STEPS


@pytest.mark.parametrize("workers", [None, 1])
def test_a_full_disk_breaks_off_the_sweep(workers: int | None, tmp_path: Path) -> None:
    """It says so once, and what is kept; the other trials are not begun."""
    scheduler = Serial() if workers is None else LocalWorkers(workers)
    watch = Watch()
    several = trials(
        tmp_path / "sweep", count_up, sweep_trials.on_a_full_disk, sweep_trials.raising
    )
    (tmp_path / "sweep" / "count_up").mkdir(parents=True)
    (tmp_path / "sweep" / "count_up" / "checkpoint.pt").touch()  # as of a run that is done
    with pytest.raises(WriteError) as told, kept_said(tmp_path / "sweep"):
        scheduler.run(several, watch)
    assert re.fullmatch(
        r"\S+/events cannot be written \(No space left on device\); make room on that disk, or "
        "pass another --out; what its runs have finished is kept, and the same command again goes "
        "on from it",
        str(told.value),
    )
    assert [name for name, m in watch.news if isinstance(m, Started)] == [
        "count_up",
        "on_a_full_disk",
    ]
    assert not watch.of(Started, "raising")
    assert scheduler.isolated is False or gone_soon(watch.pids())


def test_killed_worker_loses_one_step_at_most(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "slow").write_text("")
    watch = Watch(kill="a")
    several = [Trial(name, count_up, tmp_path / name) for name in "abc"]
    assert LocalWorkers(2).run(several, watch).complete() == dict.fromkeys("abc", STEPS)
    steps, by = zip(*(line.split(" by ") for line in diary(tmp_path, "a")), strict=True)
    assert steps == ("1", "2", "3", "4")  # from its checkpoint, not from the start
    assert len(set(by)) == 2
    (failed,) = watch.of(Failed)
    assert failed.retry
    assert "killed by SIGKILL" in failed.reason
    assert [len(diary(tmp_path, name)) for name in "bc"] == [STEPS, STEPS]


def test_accident_is_tried_again_in_a_new_process(tmp_path: Path) -> None:
    watch = Watch()
    outcome = LocalWorkers(1).run(trials(tmp_path, sweep_trials.raising_once), watch)
    assert outcome.complete() == {"raising_once": STEPS}
    assert watch.of(Failed)[0].reason == "RuntimeError: a GPU fell off"
    first, second = watch.pids()
    assert first != second


def test_what_always_fails_is_given_up(tmp_path: Path) -> None:
    several = trials(tmp_path, sweep_trials.raising, sweep_trials.exiting, count_up)
    outcome = LocalWorkers(2, retries=1).run(several)
    assert outcome.results == {"count_up": STEPS}
    assert diary(tmp_path, "raising") == ["raised"] * 2
    assert outcome.failures["exiting"].reason == "its process ended with exit code 3: last words"
    with pytest.raises(RuntimeError, match="in raising\n"):  # the worker's own traceback
        outcome.complete()


def test_fewer_workers_go_on_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    kinds = {"a": sweep_trials.roomy, "b": sweep_trials.roomy}
    kinds |= dict.fromkeys("cd", sweep_trials.without_room_at_first)
    watch = Watch()
    outcome = LocalWorkers(4, retries=0).run(
        [Trial(name, kind, tmp_path / name) for name, kind in kinds.items()], watch
    )
    assert outcome.complete() == dict.fromkeys("abcd", STEPS)
    news = [(name, type(message)) for name, message in watch.news]
    first_done = min(news.index((name, Done)) for name in "ab")
    for name in "cd":
        started = [i for i, message in enumerate(news) if message == (name, Started)]
        assert len(started) == 2
        assert started[0] < first_done < started[1]


def test_a_shortage_on_a_gpu_of_its_own_counts_and_closes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others work on other GPUs, whose memory is not what is missing."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    watch = Watch()
    hopeless = trials(tmp_path, sweep_trials.never_enough)
    long = [Trial(name, sweep_trials.slow, tmp_path / name) for name in "ab"]
    outcome = LocalWorkers(2, retries=1).run([*hopeless, *long], watch)
    assert list(outcome.failures) == ["never_enough"]
    assert len(watch.of(Started, "never_enough")) == 2
    assert outcome.results == {"a": STEPS, "b": STEPS}


def test_what_never_has_room_is_given_up(tmp_path: Path) -> None:
    watch = Watch()
    outcome = LocalWorkers(2, retries=1).run(
        trials(tmp_path, sweep_trials.never_enough, count_up), watch
    )
    assert outcome.results == {"count_up": STEPS}
    with pytest.raises(InputError, match="the GPU is out of memory"):
        outcome.complete()


def test_interrupt_leaves_no_worker(tmp_path: Path) -> None:
    watch = Watch()

    def interrupt(name, message) -> None:
        watch(name, message)
        if len(set(watch.pids())) == 2:
            raise KeyboardInterrupt

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "slow").write_text("")
    with pytest.raises(KeyboardInterrupt):
        LocalWorkers(2).run([Trial(n, count_up, tmp_path / n) for n in "ab"], interrupt)
    assert not any(alive(pid) for pid in watch.pids())


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """Also: a script needs no `if __name__ == "__main__"`, for workers do not import it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tests.helpers.sweep_trials import count_up\n"
        "from selfexplain.launchers import LocalWorkers, Started, Trial\n"
        "def watch(name, message):\n"
        "    if isinstance(message, Started):\n"
        "        print(message.pid, flush=True)\n"
        f"folders = [Path({str(tmp_path)!r}, name) for name in 'ab']\n"
        "for folder in folders:\n"
        "    folder.mkdir()\n"
        "    (folder / 'slow').touch()\n"
        "LocalWorkers(2).run([Trial(f.name, count_up, f) for f in folders], watch)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert gone_soon(pids)


def test_two_trials_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="called count_up"):
        Serial().run(trials(tmp_path, count_up, count_up))


def test_workers_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [worker_environment(i, 4, ["2", "5"], {}) for i in range(4)]
    assert [v["CUDA_VISIBLE_DEVICES"] for v in given] == ["2", "5", "2", "5"]
    assert {v["OMP_NUM_THREADS"] for v in given} == {str(max(1, cores() // 4))}
    assert worker_environment(0, 2, [], {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpus_here({}) == ["0", "1"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}) == ["GPU-a", "GPU-b"]


def test_worker_sees_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = Trial("seen", sweep_trials.environment, ["OMP_NUM_THREADS"])
    assert LocalWorkers(1).run([seen]).complete() == {"seen": {"OMP_NUM_THREADS": "3"}}


def test_steps_are_told_of_from_time_to_time_but_for_the_first_and_the_last() -> None:
    sent: list[StepsDone] = []
    on_step = sparing(sent.append)
    for done in range(1, 101):
        on_step(done, 100)
    assert (sent[0], sent[-1]) == (StepsDone(1, 100), StepsDone(100, 100))
    assert len(sent) < 100
