"""Which of many epochs a slider shows."""

FRAMES = 20
"""At most so many: more make the page heavy and the slider no better."""


def evenly(count: int, most: int = FRAMES) -> list[int]:
    """Up to `most` of the indices 0 to count - 1, evenly spaced, the first and last among them.

    Example:
        >>> evenly(3), evenly(9, most=3)
        ([0, 1, 2], [0, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
