"""Checkpoints and JSON files: whole or not at all, data only."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.files import atomic_file, read_json, write_json
from selfexplain.training.checkpoint import load_checkpoint, save_checkpoint
from selfexplain.training.log import EpochLog


def test_a_crash_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})

    def crash() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert load_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    for size in (0, 10, path.stat().st_size // 2, path.stat().st_size - 1):
        content = path.read_bytes()
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="truncated or not a checkpoint"):
            load_checkpoint(path)
        path.write_bytes(content)


class Executes:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return print, ("code ran",)


def test_checkpoint_with_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": Executes()}, path)
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


def test_missing_and_wrong_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_json(tmp_path / "run.json")
    for text in ("{", "[1]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json"):
            read_json(tmp_path / "run.json")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_reading_a_log_makes_no_folder(tmp_path: Path) -> None:
    assert EpochLog(tmp_path / "absent").read() == []
    assert not (tmp_path / "absent").exists()


def flips(content: bytes) -> Iterator[bytes]:
    """The content with each of its bits flipped, one at a time."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_every_flipped_bit_of_a_log_is_told_with_its_line(tmp_path: Path) -> None:
    log = EpochLog(tmp_path)
    log.path.write_text('{"epoch": 1, "loss": 0.9}\n')  # as 0.1.0 wrote it
    lines = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.83}, {"epoch": 3, "loss": math.nan}]
    for line in lines[1:]:
        log.write(line)
    assert str(log.read()) == str(lines)
    old, *new = log.path.read_bytes().splitlines(keepends=True)
    for number, damaged in ((n, d) for n in (0, 1) for d in flips(new[n])):
        log.path.write_bytes(old + b"".join([*new[:number], damaged, *new[number + 1 :]]))
        said = read_or_refusal(log)
        if isinstance(said, str):
            assert re.search(rf"line {number + 2} of .*metrics\.jsonl", said)
        else:  # the name of the digest, which nobody looks for then
            read = [str([line["epoch"], line["loss"]]) for line in said]
            assert read == ["[1, 0.9]", "[2, 0.83]", "[3, nan]"]


def read_or_refusal(log: EpochLog) -> list[dict[str, Any]] | str:
    try:
        return log.read()
    except InputError as error:
        return str(error)


def test_log_forgets_epochs_after_the_checkpoint_and_half_lines(tmp_path: Path) -> None:
    log = EpochLog(tmp_path)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch})
    with log.path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    log.cut_after(2)
    assert log.read() == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ((1, 3), "line 2 of .* is of epoch 3, and the line before of epoch 1"),
        ((1, 2, 2, 3, 4), "line 3 of .* is of epoch 2, and the line before of epoch 2"),
        ((2, 1, 3, 4), "line 2 of .* is of epoch 1, and the line before of epoch 2"),
        ((1, 2, 3, 4, 1), "line 5 of .* is of epoch 1, and the line before of epoch 4"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False], ids=["with digests", "as 0.1.0 wrote it"])
def test_lines_of_a_log_that_are_missing_or_there_twice_are_told(
    kept: tuple[int, ...], said: str, sealed: bool, tmp_path: Path
) -> None:
    log = EpochLog(tmp_path)
    for epoch in (1, 2, 3, 4):
        log.write({"epoch": epoch, "loss": 1 / epoch})
    lines = log.path.read_text().splitlines(keepends=True)
    if not sealed:
        lines = [json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 2, 3, 4)]
    log.path.write_text("".join(lines[epoch - 1] for epoch in kept))
    for read in (log.read, lambda: log.cut_after(1)):
        with pytest.raises(InputError, match=f"{said}.*delete the file to go on"):
            read()


def test_a_log_of_a_run_that_broke_off_goes_on_in_order(tmp_path: Path) -> None:
    """After a line without a checkpoint, a half line, and a file that was deleted in between."""
    log = EpochLog(tmp_path)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch})
    log.cut_after(2)
    log.write({"epoch": 3})
    assert log.read() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    with log.path.open("ab") as file:
        file.write(b'{"epoch": 4, "los')
    log.cut_after(3)
    log.write({"epoch": 4})
    assert [line["epoch"] for line in log.read()] == [1, 2, 3, 4]
    log.path.unlink()
    log.cut_after(4)
    for epoch in (5, 6):
        log.write({"epoch": epoch})
    assert log.read() == [{"epoch": 5}, {"epoch": 6}]
