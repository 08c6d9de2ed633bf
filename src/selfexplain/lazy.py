"""Packages that import a module of theirs when one of its names is asked for.

So the command line reads the options of every package without torch, which takes seconds to import.
"""

import os
import sys
from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any


def import_named(name: str) -> Any:
    """What `package.module:name` stands for in code of the user's own, which is imported.

    Modules in the current directory are found, after those that are installed.

    Raises:
        ImportError: there is no such module, or nothing of this name in it; a module may raise
            anything else, too.

    Example:
        >>> import_named("collections:OrderedDict").__name__
        'OrderedDict'
    """
    module_name, _, path = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 - a string, as the entries of sys.path are
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # for good: the module may import others later, and so may workers
    module = import_module(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise ImportError(f"module {module_name} has no {path}", name=module_name) from error


def lazily(package: str, names: Mapping[str, str]) -> None:
    """Let a package import its names when they are asked for; called at the end of `__init__.py`.

    Type checkers and readers see the same names imported under `TYPE_CHECKING`, and `__all__`.
    `names` maps a module of the package (dotted, without the package's name) to its public names,
    with spaces between.
    """
    module = sys.modules[package]
    places = {name: place for place, listed in names.items() for name in listed.split()}
    vars(module)["__lazy__"] = places
    # A class, not a module's own __getattr__: type checkers would take any name for granted.
    module.__class__ = _LazyPackage


class _LazyPackage(ModuleType):
    """A package whose `__lazy__` says which of its modules has each of its public names."""

    __lazy__: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        """Import what has the name; called when the package does not have it yet."""
        if name not in self.__lazy__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{self.__name__}.{self.__lazy__[name]}"), name)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep a function's place from a module of its name, which Python would put there."""
        if not (name in self.__lazy__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """What is there, and what will be when it is asked for."""
        return sorted({*vars(self), *self.__lazy__})
