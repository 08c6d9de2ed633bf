"""The id that a run has elsewhere, kept in its folder for when it is continued."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfexplain.writing import atomic_file


def kept_id(path: Path, hyperparameters: Mapping[str, Any], new: Callable[[], str]) -> str:
    """The id kept in a file for this configuration; if there is none, a new one, kept from now on.

    A start that failed before its first checkpoint leaves its folder to any other configuration,
    whose numbers must not go to the run with the old hyper-parameters.

    Args:
        path: of the file: the id in its first line, a digest of the hyper-parameters in its second.
        hyperparameters: configuration of the run, nested.
        new: makes an id.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run-id"
        >>> kept_id(path, {"seed": 0}, lambda: "a"), kept_id(path, {"seed": 0}, lambda: "b")
        ('a', 'a')
        >>> kept_id(path, {"seed": 1}, lambda: "c")
        'c'
    """
    text = json.dumps(hyperparameters, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if path.exists():
        run_id, _, of = path.read_text().partition("\n")
        if of == digest:
            return run_id
    run_id = new()
    with atomic_file(path) as file:
        file.write(f"{run_id}\n{digest}".encode())
    return run_id
