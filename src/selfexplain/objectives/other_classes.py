"""Values of the classes that are not true, taken out of a row and put back.

Shape suffixes: B batch, K classes, J = K - 1 classes that are not true.
"""

import torch
from torch import Tensor


def other_places(y_B: Tensor, classes: int) -> Tensor:
    """Indices of the classes that are not true, in cyclic order after the true one: (B, J).

    Example:
        >>> other_places(torch.tensor([1]), 3)
        tensor([[2, 0]])
    """
    return (y_B.unsqueeze(1) + torch.arange(1, classes, device=y_B.device)) % classes


def other_classes(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Values of the classes that are not true, in that order: (B, J).

    Example:
        >>> other_classes(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
        tensor([[3., 1.]])
    """
    return z_BK.gather(1, other_places(y_B, z_BK.shape[1]))


def put_together(mass_B: Tensor, others_BJ: Tensor, y_B: Tensor) -> Tensor:
    """The distribution with this mass on the true class, the rest shared as `others` says: (B, K).

    Args:
        mass_B: of the true class, in [0, 1].
        others_BJ: shares of the other classes, in the order of `other_classes`; rows sum to 1.
        y_B: true classes.

    Example:
        >>> put_together(torch.tensor([0.5]), torch.tensor([[0.75, 0.25]]), torch.tensor([1]))
        tensor([[0.1250, 0.5000, 0.3750]])
    """
    classes = others_BJ.shape[1] + 1
    places_BK = torch.cat((y_B.unsqueeze(1), other_places(y_B, classes)), dim=1)
    mass_B1 = mass_B.unsqueeze(1)
    values_BK = torch.cat((mass_B1, (1 - mass_B1) * others_BJ), dim=1)
    return torch.empty_like(values_BK).scatter_(1, places_BK, values_BK)
