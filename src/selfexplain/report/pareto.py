"""The Pareto front of cost and accuracy: what nothing else beats."""

from collections.abc import Sequence


def pareto_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Places of the methods than which no other is cheaper and as accurate, or better and as cheap.

    Args:
        costs: less is better.
        accuracies: more is better.

    Returns:
        Places by rising cost; methods that are equal in both are on the front together.

    Example:
        >>> pareto_front([1.0, 2.0, 3.0], [90.0, 89.0, 92.0])
        [0, 2]
    """
    points = list(zip(costs, accuracies, strict=True))
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        # The last of the front is the most accurate of all that are as cheap.
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
