"""A model that is shown images which were normalised for another.

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from torch import Tensor, nn


class Renormalised(nn.Module):
    """Takes images of one mean and standard deviation to those that its model was trained with.

    Args:
        model: maps images (B, C, H, W), normalised its own way, to logits (B, K).
        mean_C: mean of the channels that the images come normalised with.
        std_C: and their standard deviation.
        own_mean_C: mean that the model's own images were normalised with.
        own_std_C: and their standard deviation.

    Example:
        >>> import torch
        >>> zero, one = torch.tensor([0.0]), torch.tensor([1.0])
        >>> model = Renormalised(nn.Identity(), zero, one, own_mean_C=one, own_std_C=2 * one)
        >>> model(torch.full((1, 1, 1, 1), 5.0)).item()
        2.0
    """

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean_C: Tensor,
        std_C: Tensor,
        *,
        own_mean_C: Tensor,
        own_std_C: Tensor,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale_C11", (std_C / own_std_C)[:, None, None])
        self.register_buffer("shift_C11", ((mean_C - own_mean_C) / own_std_C)[:, None, None])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.model(x_BCHW * self.scale_C11 + self.shift_C11)
        return logits_BK
