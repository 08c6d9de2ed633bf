"""Drop-path: leave out single operations, sample by sample (Larsson et al., ICLR 2017).

Shape suffixes: B batch, C channels, H and W space.
"""

from torch import Tensor, nn

from selfexplain.spaces.checks import check_probability


class DropPath(nn.Module):
    """In training, zero for some samples of the batch; the others are scaled up to keep the mean.

    Attributes:
        probability: that a sample's path is dropped.

    Shapes:
        input and output (B, C, H, W).

    Example:
        >>> import torch
        >>> DropPath(0.5).eval()(torch.ones(2, 1, 1, 1)).flatten()
        tensor([1., 1.])
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, without the paths that are dropped."""
        if not self.training or self.probability == 0:
            return x_BCHW
        keep = 1 - self.probability
        kept_B111 = x_BCHW.new_empty((x_BCHW.shape[0], 1, 1, 1)).bernoulli_(keep)
        return x_BCHW * (kept_B111 / keep)


def set_drop_path(network: nn.Module, probability: float) -> None:
    """Set the probability of every `DropPath` in a network, as trainers do before each epoch.

    DARTS raises it linearly, `set_drop_path(network, 0.2 * epoch / epochs)`.

    Args:
        network: a network of `build_network`, or a module that contains one; other modules, and
            identity skips, have no path to drop and stay as they are.
        probability: that an operation's output is dropped for a sample, in [0, 1).

    Raises:
        InputError: the probability is outside [0, 1).

    Example:
        >>> layer = DropPath()
        >>> set_drop_path(nn.Sequential(layer), 0.1)
        >>> layer.probability
        0.1
    """
    check_probability(probability)
    for module in network.modules():
        if isinstance(module, DropPath):
            module.probability = probability
