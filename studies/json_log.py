"""A log of JSON lines that a study continues from, so that nothing is done twice."""

import json
from pathlib import Path
from typing import Any


class JSONLog:
    """Lines of JSON, each found by some of its values.

    Args:
        path: the file; it need not be there yet.

    Example:
        >>> import tempfile
        >>> log = JSONLog(Path(tempfile.mkdtemp()) / "log.jsonl")
        >>> log.add({"cell": "a", "accuracy": 50.0})
        >>> log.find({"cell": "a"}), log.find({"cell": "b"})
        ({'cell': 'a', 'accuracy': 50.0}, None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The first line that has all of these values, if there is one."""
        return next((row for row in self.rows if key.items() <= row.items()), None)

    def add(self, row: dict[str, Any]) -> None:
        """Write a line at once."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
