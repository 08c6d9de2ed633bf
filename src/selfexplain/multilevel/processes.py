"""Several processes that share a batch: each computes on its part, what they share is averaged.

The room itself communicates with nobody. Whoever runs several processes passes how to average over
them; training/processes.py does so with torch.distributed.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from selfexplain.multilevel.variables import Variable, leaves, like

Products = dict[str, tuple[Tensor, ...]]
"""Name of a variable -> one tensor for each of its tensors."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that compute one step together, each on an equal share of the images.

    Args:
        rank: number of this process, from 0.
        count: how many there are.
        mean: tensors -> their means over all processes, in the same order and shapes; called by all
            of them at the same points. Every process must get the same bits.

    Example:
        >>> import torch
        >>> Processes().mean([torch.tensor(2.0)])
        (tensor(2.),)
    """

    rank: int = 0
    count: int = 1
    mean: Callable[[Sequence[Tensor]], tuple[Tensor, ...]] = tuple


ALONE = Processes()
"""One process, with all images to itself."""


def averaged(scalar: Tensor, variable: Variable, processes: Processes) -> tuple[Tensor, Variable]:
    """Means over the processes of a scalar and of a variable.

    Example:
        >>> import torch
        >>> averaged(torch.tensor(1.0), {"w": torch.tensor(2.0)}, ALONE)
        (tensor(1.), {'w': tensor(2.)})
    """
    first, *rest = processes.mean([scalar, *leaves(variable)])
    return first, like(variable, rest)


def average_shared(products: Products, own: Collection[str], processes: Processes) -> Products:
    """Products with those towards shared variables averaged over the processes.

    Args:
        products: each process's.
        own: names of the variables of which each process has its own, whose products stay.
        processes: to average over.

    Example:
        >>> import torch
        >>> average_shared({"a": (torch.tensor(1.0),)}, (), ALONE)
        {'a': (tensor(1.),)}
    """
    shared = [name for name in products if name not in own]
    means = iter(processes.mean([t for name in shared for t in products[name]]))
    return products | {name: tuple(next(means) for _ in products[name]) for name in shared}
