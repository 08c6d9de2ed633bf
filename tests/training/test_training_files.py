"""Checkpoints and JSON files: whole or not at all, data only."""

from pathlib import Path

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.training.checkpoint import load_checkpoint, save_checkpoint
from selfexplain.training.files import atomic_file, read_json, write_json
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


def test_log_forgets_epochs_after_the_checkpoint_and_half_lines(tmp_path: Path) -> None:
    log = EpochLog(tmp_path)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch})
    with log.path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    log.cut_after(2)
    assert log.read() == [{"epoch": 1}, {"epoch": 2}]
