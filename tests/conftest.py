"""What the tests of several packages share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small finished comparison, with all that the report reads."""
    from tests.helpers.compared import (
        make_comparison,  # not before a test needs it: it imports much
    )

    out = tmp_path_factory.mktemp("report") / "compared"
    make_comparison(out)
    return out


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an introspective and of a standard run, as the app shows them."""
    from tests.helpers.app_runs import make_runs

    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished introspective run, for tests that leave it as it is."""
    from tests.helpers.command_line import train  # not before a test needs it: it imports much

    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, "--objective", "introspective", "--image-size", "16")
    return out
