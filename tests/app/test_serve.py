"""The command: what it refuses before a server runs."""

import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from selfexplain.app.serve import AppConfig, serve
from selfexplain.cli import main, parse
from selfexplain.errors import InputError

Runs = tuple[Path, Path]
with_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="Gradio (the extra app) is not installed"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serve sets for Gradio is taken back."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")


def test_one_or_two_runs_are_given() -> None:
    one = parse(["app", "--run", "a"])
    assert isinstance(one, AppConfig)
    assert (one.run, one.host) == ((Path("a"),), "127.0.0.1")
    two = parse(["app", "--run", "a", "--run", "b", "--port", "8000"])
    assert isinstance(two, AppConfig)
    assert (two.run, two.port) == ((Path("a"), Path("b")), 8000)
    with pytest.raises(InputError, match="pass one, or two to compare"):
        AppConfig(run=(Path("a"), Path("b"), Path("c")))
    with pytest.raises(InputError, match="port is 0; pass a whole number from 1 to 65535"):
        AppConfig(run=(Path("a"),), port=0)


def test_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["app", "--run", "absent"])
    assert ended.value.code == 2
    assert "absent contains no finished run" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "selfexplain.app.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'selfexplain\[app\]'"):
        serve(AppConfig(run=(runs[0],)))


@with_gradio
@pytest.mark.parametrize("what", ["a run", "a model without a run"])
def test_a_port_in_use_is_named(what: str, runs: Runs) -> None:
    given: dict[str, Any] = {"run": (runs[0],)}
    if what != "a run":
        weights = runs[0] / "model.safetensors"
        given = {"model": "small_cnn", "weights": weights, "image_size": 8}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} is not available"):
            serve(AppConfig(**given, port=port))
