"""What the tests of commands share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished introspective run, for tests that leave it as it is."""
    from tests.helpers.command_line import train  # not before a test needs it: it imports much

    out = tmp_path_factory.mktemp("trained") / "run"
    train(out, "--objective", "introspective", "--image-size", "16")
    return out
