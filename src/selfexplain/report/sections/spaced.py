"""A few of many, evenly spaced."""


def spaced(n: int, most: int) -> list[int]:
    """Places of at most so many of n things, evenly spaced, the first and the last among them.

    Args:
        n: how many there are.
        most: how many to choose, at least 2.

    Example:
        >>> spaced(30, 4), spaced(3, 20)
        ([0, 10, 19, 29], [0, 1, 2])
    """
    if n <= most:
        return list(range(n))
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]
