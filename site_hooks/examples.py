"""Docstrings here say `Example:` where griffe, which reads them for the site, wants `Examples:`."""

import re
from typing import Any

import griffe

HEADING = re.compile(r"^( *)Example:$", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Has griffe read `Example:` as the heading of doctests, not as an admonition of text."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute that griffe has read."""
        if obj.docstring:
            obj.docstring.value = with_examples(obj.docstring.value)


def with_examples(docstring: str) -> str:
    """A docstring with the heading that griffe knows.

    Example:
        >>> with_examples("Example:")
        'Examples:'
    """
    return HEADING.sub(r"\1Examples:", docstring)
