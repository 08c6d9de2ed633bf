"""Objectives that look back at the epoch before must be told where one begins."""

from selfexplain.errors import InputError


def check_begun(begun: bool) -> None:
    """Raise InputError if a step of training comes before the first `begin_epoch`.

    Without it the objective would silently be another one, since it never looks back.

    Example:
        >>> check_begun(True)
    """
    if not begun:
        raise InputError(
            "this objective learns from the epoch before; call "
            "objective.begin_epoch(epoch, epochs) before each epoch, with epochs counted from 0"
        )
