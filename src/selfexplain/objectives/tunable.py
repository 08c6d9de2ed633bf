"""Where the good values of an option may lie: what a search over options draws from."""

from dataclasses import dataclass

from selfexplain.errors import InputError


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high; evenly on a logarithmic scale if `log`.

    Raises:
        InputError: the range is empty, or `log` and it reaches down to 0.

    Example:
        >>> Range(0.01, 1.0, log=True).high
        1.0
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that nothing can be drawn from."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise InputError(
                f"the range from {self.low:g} to {self.high:g} holds nothing to draw; "
                "pass low < high, and low > 0 with log"
            )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values.

    Example:
        >>> Choice("zipf", "softmax").values
        ('zipf', 'softmax')
    """

    values: tuple[str | int | float | bool, ...]

    def __init__(self, *values: str | int | float | bool) -> None:
        object.__setattr__(self, "values", values)


Tunable = Range | Choice
