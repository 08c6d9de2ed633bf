"""How a sweep gets on, as a terminal and as a file shows it."""

import io

import pytest
from rich.console import Console

from selfexplain.launchers import Done, Failed, Message, Started, StepsDone, Waiting
from selfexplain.report import sweep_progress

NEWS: list[tuple[str, Message]] = [
    *((name, Waiting()) for name in ("a-seed0", "b-seed0", "c-seed0", "d-seed0")),
    ("a-seed0", Started("process 11")),
    ("b-seed0", Started("process 12")),
    ("a-seed0", StepsDone(1, 20)),
    ("b-seed0", StepsDone(101, 200)),  # a run that goes on from its checkpoint
    ("a-seed0", Done({})),
    ("c-seed0", Started("process 11")),
    ("c-seed0", Failed("the loss became nan")),
    ("d-seed0", Started("process 11")),
    ("d-seed0", Failed("its process was killed by SIGKILL", retry=True)),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("selfexplain.report.progress.time.monotonic", lambda: now[0])
    return now


def test_plain_lines_where_there_is_no_terminal(clock: list[float]) -> None:
    file = io.StringIO()
    with sweep_progress(Console(file=file, width=200), epochs=10) as watch:
        watch("z-seed0", Done({}))
        for told in NEWS:
            clock[0] += 1
            watch(*told)
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("z-seed0: done, found finished (done 1 of 1")
    assert lines[1:3] == ["a-seed0: begun (process 11)", "b-seed0: begun (process 12)"]
    assert lines[3].startswith("a-seed0: done after 0:00:02 (done 2 of 5, running 1, waiting 2")
    assert lines[5].startswith("c-seed0: failed: the loss became nan (done 2 of 5, running 1")
    assert "killed by SIGKILL, tried again from its last checkpoint" in lines[7]
    assert lines[7].endswith("running 1, waiting 1, failed 1, tried again 1)")
    assert len(lines) == 8  # steps are not told


def test_table_has_a_line_for_each_run_at_work(clock: list[float]) -> None:
    """b went 50 steps in 10 seconds, and has 49 to go; c has not told of a step yet."""
    with sweep_progress(Console(file=io.StringIO()), epochs=10) as watch:
        for told in NEWS:
            watch(*told)
        clock[0] += 10
        watch("b-seed0", StepsDone(151, 200))
        watch("d-seed0", Started("process 13"))
    file = io.StringIO()
    Console(file=file, width=80).print(watch)
    table = file.getvalue().splitlines()
    assert len(table) == 3
    assert table[0].split()[0] == "b-seed0"
    assert table[0].rstrip().endswith("epoch 8/10 left 0:00:09 process 12")
    assert table[1].rstrip().endswith("beginning  left -:--:-- process 13")
    expected = "done 1 of 4, running 2, waiting 0, failed 1, tried again 1, passed 0:00:10"
    assert table[2] == expected


def test_live_table_on_a_terminal_leaves_only_failures() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, legacy_windows=False)
    with sweep_progress(console, epochs=10) as watch:
        for told in NEWS:
            watch(*told)
    text = file.getvalue()
    assert "c-seed0: failed: the loss became nan" in text
    assert "begun" not in text


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with sweep_progress(Console(), epochs=10, quiet=True) as watch:
        for told in NEWS:
            watch(*told)
    assert capsys.readouterr().out == ""
