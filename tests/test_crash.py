"""A process that dies of a signal names the test, shows where, and the other tests still run."""

import signal
import subprocess
import sys
from pathlib import Path

TESTS = """
import os, signal

def test_before():
    pass

def test_that_dies():
    os.kill(os.getpid(), signal.SIGABRT)

def test_after():
    pass
"""


def test_a_worker_that_dies_names_its_test_and_the_rest_runs(tmp_path: Path) -> None:
    (tmp_path / "test_dying.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "test_dying.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 1
    assert "crashed while running 'test_dying.py::test_that_dies'" in run.stdout
    assert "1 failed, 2 passed" in run.stdout
    assert "Fatal Python error: Aborted" in run.stdout + run.stderr


def test_a_started_process_that_dies_says_where() -> None:
    code = "import os, signal\ndef broken():\n    os.kill(os.getpid(), signal.SIGABRT)\nbroken()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in run.stderr
    assert "in broken" in run.stderr
