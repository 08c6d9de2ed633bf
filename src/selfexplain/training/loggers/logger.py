"""What a logger is, and what of metrics and configurations it is given."""

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol


class Logger(Protocol):
    """Takes the numbers of each epoch, then the final scores.

    Lightning's loggers are not used: they need the whole of Lightning's Trainer, that of Weights &
    Biases takes over a run that is already open in the process, and neither ends its run.

    Example:
        >>> class Printer:
        ...     def log(self, numbers, epoch): print(epoch, numbers)
        ...     def finish(self, scores): print("final", scores)
        ...     def close(self, *, failed): pass
        >>> logger: Logger = Printer()
        >>> logger.log({"loss": 0.5}, epoch=1)
        1 {'loss': 0.5}
    """

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Take the numbers of one epoch, counted from 1."""

    def finish(self, scores: Mapping[str, float]) -> None:
        """Take the final scores, once."""

    def close(self, *, failed: bool) -> None:
        """End the run, as one that failed or one that is done."""


def flat(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested dictionaries as one, with joined names.

    Example:
        >>> flat({"data": {"data": "digits"}, "seed": 0})
        {'data.data': 'digits', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}{separator}", separator)
        else:
            found[f"{prefix}{key}"] = value
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among nested values; texts and lists are left to the run's own files.

    Example:
        >>> numbers({"epoch": 1, "losses": {"audience": 0.5, "explainer": None}, "genotype": "|.."})
        {'epoch': 1.0, 'losses/audience': 0.5}
    """
    return {
        name: float(value)
        for name, value in flat(values, separator="/").items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def as_text(value: Any) -> str:
    """One value of a configuration as a text; lists as JSON.

    Example:
        >>> as_text(["standard"]), as_text(0.1), as_text("digits")
        ('["standard"]', '0.1', 'digits')
    """
    return value if isinstance(value, str) else json.dumps(value)
