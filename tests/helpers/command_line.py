"""Commands that the tests of several files run, on a few digits."""

import sys
from pathlib import Path

import pytest

from selfexplain.cli import main

DIGITS = ("--data", "digits", "--batch-size", "50", "--train-size", "200")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "selfexplain", *arguments]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command with bad input says; it must exit with code 2 and one line."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("selfexplain: ")
    assert said.count("\n") == 1
    return said


def train(out: Path, *more: str) -> None:
    main(["train", *DIGITS, "--epochs", "2", "--out", str(out), *more])
