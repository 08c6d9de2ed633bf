"""What a teacher says on average of the images of each class.

Shape suffixes: B batch, K classes; in KK the first is the true class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.objectives.memory import KeepsPrecision
from selfexplain.objectives.processes import gathered


class TeacherMeans(KeepsPrecision):
    """Mean of the rows q (B, K) seen so far, for each true class; every image counts the same.

    The teacher is fixed, so after an epoch these are its means over the training set, as it was
    augmented. With several processes they are those of all of them, which must all take part.

    Args:
        num_classes: K.

    Example:
        >>> means = TeacherMeans(2)
        >>> means.update(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 0]))
        >>> means.of_class(torch.tensor([[0.2, 0.8]]), torch.tensor([0]))
        tensor([[0.8000, 0.2000]])
    """

    mean_KK: Tensor
    count_K: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean_KK", torch.zeros(num_classes, num_classes))
        self.register_buffer("count_K", torch.zeros(num_classes))

    @torch.no_grad()
    def update(self, q_BK: Tensor, y_B: Tensor) -> None:
        """Take in the rows of one batch with true classes (B,)."""
        q_BK, y_B = gathered(q_BK.float()), gathered(y_B)
        onehot_BK = F.one_hot(y_B, len(self.count_K)).to(q_BK.dtype)
        new_K = onehot_BK.sum(dim=0)
        with torch.autocast(q_BK.device.type, enabled=False):
            sum_KK = onehot_BK.T @ q_BK
        self.count_K += new_K
        moved_KK = sum_KK - new_K.unsqueeze(1) * self.mean_KK
        self.mean_KK += moved_KK / self.count_K.clamp_min(1).unsqueeze(1)

    def of_class(self, q_BK: Tensor, y_B: Tensor) -> Tensor:
        """The mean of each image's class, (B, K); the image's own row for a class not seen yet."""
        return torch.where(self.count_K[y_B].unsqueeze(1) > 0, self.mean_KK[y_B], q_BK)

    def true_mass(self, mass_B: Tensor) -> Tensor:
        """The mean mass of the true class over all images, (B,); `mass_B` before any was seen."""
        seen = self.count_K.sum()
        mean = (self.mean_KK.diagonal() * self.count_K).sum() / seen.clamp_min(1)
        return torch.where(seen > 0, mean, mass_B)
