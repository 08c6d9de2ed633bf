"""Names of runs that may be called alike."""

from collections.abc import Sequence


def told_apart(names: Sequence[str]) -> list[str]:
    """The names as they are, or numbered if two of them are alike.

    Example:
        >>> told_apart(["a", "b"]), told_apart(["a", "a"])
        (['a', 'b'], ['a (1)', 'a (2)'])
    """
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]
