"""Modules that are imported when something of them is asked for, not when tests are collected."""

import importlib
from typing import Any


class Later:
    """A module by its name.

    Each of pytest's workers collects all test files and runs a part of them: what takes seconds to
    import, only those workers should import that run its tests.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or attribute == "pytestmark":  # pytest asks while it collects
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
