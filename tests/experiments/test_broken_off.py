"""Runs whose files are damaged, whose disk is full, or whose program is interrupted."""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import selfexplain
from selfexplain import __main__ as program
from selfexplain import distributed
from selfexplain.app.viewer import read_examples
from selfexplain.cli import main
from selfexplain.distributed import lost_process_said
from selfexplain.errors import InputError, LostProcessError, WriteError
from selfexplain.experiments import run_dir as folders
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.export import ExportConfig, export_run
from selfexplain.experiments.fit.pretrained import classifier_of
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, TrainConfig
from selfexplain.experiments.report import ReportConfig, write_report
from selfexplain.experiments.run_dir import FinishedRun, read_finished
from selfexplain.files import read_json, write_json
from selfexplain.launchers import Failed, Serial, Trial
from selfexplain.launchers.trials import attempt
from selfexplain.training import TrainingOptions
from selfexplain.training.checkpoint import epochs_kept

FULL = OSError(errno.ENOSPC, "No space left on device")


def config(out: Path, **more: object) -> TrainConfig:
    data = DataOptions(data="digits", train_size=60)
    training = TrainingOptions(epochs=2, batch_size=30)
    return TrainConfig(data=data, objective="introspective", training=training, out=out, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "run"
    run_training(config(out))
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flip(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def report(run: Path) -> None:
    write_report(ReportConfig(dirs=(run,)))


def export(run: Path) -> None:
    export_run(ExportConfig(run=run, out=run.parent / "exported"))


def resume(run: Path) -> None:
    run_training(config(run, resume=True))


def teach(run: Path) -> None:
    taught = config(run.parent / "student", teacher=run)
    run_training(TrainConfig(**{**vars_of(taught), "objective": "kd"}))


def vars_of(one: TrainConfig) -> dict[str, object]:
    return {name: getattr(one, name) for name in TrainConfig.__dataclass_fields__}


def examples(run: Path) -> None:
    read_examples(run, read_finished(run).class_names)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("model.safetensors", load_run),  # explain and the app
        ("model.safetensors", export),
        ("model.safetensors", resume),  # as compare takes up what is finished
        ("model.safetensors", teach),
        ("checkpoint.pt", load_run),
        ("predictions.safetensors", report),
        ("predictions.safetensors", resume),
        ("similarity.safetensors", report),
        ("album/images.safetensors", report),
        ("album/images.safetensors", examples),
        ("album/epoch-0002.safetensors", report),
    ],
)
def test_one_flipped_bit_is_told_by_whoever_reads(
    name: str, use: Callable[[Path], None], run: Path
) -> None:
    place = (run / name).stat().st_size // 2 if name.endswith(".pt") else -3
    flip(run / name, place)
    with pytest.raises(InputError, match=rf"{name} .*damaged.*(delete|run)") as told:
        use(run)
    assert "\n" not in str(told.value)


def test_a_resumed_training_refuses_a_damaged_checkpoint(run: Path) -> None:
    (run / "result.json").unlink()
    flip(run / "checkpoint.pt", (run / "checkpoint.pt").stat().st_size // 2)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged.*delete it to start"):
        resume(run)


def test_damaged_weights_are_made_anew_as_the_sentence_says(run: Path) -> None:
    before = (run / "model.safetensors").read_bytes()
    flip(run / "model.safetensors")
    (run / "result.json").unlink()
    resume(run)
    assert (run / "model.safetensors").read_bytes() == before
    load_run(run)


def test_weights_of_another_run_are_told_from_those_of_the_result(run: Path) -> None:
    """They are whole, but the result is not theirs."""
    from selfexplain.files import read_tensors, write_tensors

    path = run / "model.safetensors"
    write_tensors(path, {name: t + 1 for name, t in read_tensors(path).items()})
    with pytest.raises(InputError, match=r"model\.safetensors .*damaged"):
        load_run(run)


def test_a_run_without_digests_loads(run: Path) -> None:
    """As those of older versions."""
    result = read_json(run / "result.json")
    assert set(result.pop("digests")) == {"model.safetensors", "predictions.safetensors"}
    write_json(run / "result.json", result)
    load_run(run)
    resume(run)
    (run / "result.json").unlink()
    load_run(run)


def test_exported_weights_keep_their_digest(run: Path) -> None:
    export(run)
    out = run.parent / "exported"
    assert selfexplain.from_pretrained(out).class_names
    config = read_json(out / "config.json")
    flip(out / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors .*damaged.*export it, or download"):
        selfexplain.from_pretrained(out)
    flip(out / "model.safetensors")
    del config["digest"]  # as an older version wrote it
    (out / "config.json").write_text(json.dumps(config))
    assert isinstance(
        classifier_of(FinishedRun(**{**fields(run), "folder": out})).mean_C11, torch.Tensor
    )
    assert selfexplain.from_pretrained(out).class_names


def fields(run: Path) -> dict[str, object]:
    finished = read_finished(run)
    return {name: getattr(finished, name) for name in FinishedRun.__dataclass_fields__}


def test_a_disk_that_fills_up_names_what_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(path: Path, *_: object) -> None:
        raise WriteError(f"{path} cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr("selfexplain.training.loop.save_checkpoint", no_room)
        with pytest.raises(WriteError, match=r"no epoch was finished$"):
            run_training(config(tmp_path / "new"))
        (run / "result.json").unlink()
        patch.setattr("selfexplain.experiments.fit.train.write_outcome", no_room)
        with pytest.raises(WriteError, match=r"checkpoint of epoch 2 is kept in .*--resume goes"):
            resume(run)
    (run / ".model.safetensors.1.partial").write_bytes(b"half")
    (run / "album" / ".epoch-0002.safetensors.1.partial").write_bytes(b"half")
    resume(run)
    assert not list(run.rglob("*.partial"))


def fail_as_a_library_would(argument: object, on_step: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/runs/tensorboard/events")


def test_a_full_disk_ends_a_sweep_and_is_tried_no_further() -> None:
    sent: list[object] = []
    trial = Trial("a", fail_as_a_library_would, None)
    attempt(trial, sent.append)
    assert isinstance(sent[-1], Failed)
    assert not sent[-1].retry
    assert not sent[-1].detail
    assert sent[-1].reason.startswith("/runs/tensorboard/events cannot be written (No space left")

    began = []

    def begin(argument: int, on_step: object) -> None:
        began.append(argument)
        raise WriteError("the disk is full")

    with pytest.raises(WriteError):
        Serial().run([Trial(str(n), begin, n) for n in range(3)])
    assert began == [0]


def test_commands_say_a_full_disk_in_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selfexplain.files import _Watched

    def no_room(self: _Watched, data: bytes) -> int:
        self.error = FULL
        raise FULL

    monkeypatch.setattr(_Watched, "write", no_room)
    monkeypatch.setattr(folders, "claim_folder", lambda *_: "")
    image = run.parent / "a.png"
    from PIL import Image

    Image.new("L", (8, 8)).save(image)
    explain = ["--run", str(run), "--images", str(image), "--out", str(run / "e.png")]
    for arguments in (
        ["report", str(run)],
        ["export", "--run", str(run), "--out", str(run.parent / "exported")],
        ["explain", *explain],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "cannot be written (No space left on device); make room" in said
    assert not list(run.parent.rglob("*.partial"))


class GlooError(RuntimeError):
    pass


def test_a_lost_process_is_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:29500"
    with pytest.raises(GlooError), lost_process_said():  # one process alone loses none
        raise GlooError(gone)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(LostProcessError, match="another process") as told, folders.kept_said(run):
        raise GlooError(gone)
    assert "the checkpoint of epoch 2 is kept" in str(told.value)
    assert told.value.exit_code == 1
    with pytest.raises(RuntimeError, match="size mismatch"), lost_process_said():
        raise RuntimeError("size mismatch")


def test_an_interrupt_while_something_is_imported_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        raise SystemExit(code)  # os._exit does not come back

    monkeypatch.setattr(os, "_exit", leave)
    (tmp_path / "interrupted_module.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept Exception:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = signal.signal(signal.SIGINT, program.interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert left == []
        with pytest.raises(SystemExit):
            importlib.import_module("interrupted_module")
    finally:
        signal.signal(signal.SIGINT, before)
    assert left == [130]


def test_a_program_whose_output_cannot_be_written_ends_without_a_traceback() -> None:
    """One process, since it is about what Python does when it ends."""
    script = (
        "import os, sys; from selfexplain import __main__ as m, cli\n"
        "def run(): print('\\u2713 1 \\u00b1 2'); sys.stdout.flush()\n"
        "if sys.argv[1] == 'full': sys.argv[1] = '--help'\n"
        "else: cli.main = run\n"
        "if sys.argv[1] == 'pipe': r, w = os.pipe(); os.dup2(w, 1); os.close(w); os.close(r)\n"
        "m.main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for case, code, said in (("ascii", 0, ""), ("pipe", 141, ""), ("full", 2, "No space left")):
        out = Path("/dev/full").open("w") if case == "full" else subprocess.PIPE  # noqa: SIM115
        ended = subprocess.run(
            [sys.executable, "-c", script, case],
            check=False,
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        assert said in ended.stderr


def test_epochs_of_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no zip")
    assert epochs_kept(tmp_path / "checkpoint.pt") is None
