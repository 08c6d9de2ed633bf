"""The skeleton around the cells of DARTS (Liu, Simonyan, Yang, ICLR 2019, section 3.1).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from selfexplain.spaces.darts_ends import ImageNetStem, SmallStem
from selfexplain.spaces.layers import FactorizedReduce


class CellShape(NamedTuple):
    """Where a cell stands: channels of the two outputs before it, its own, and who reduces."""

    second_last: int
    last: int
    channels: int
    reduces: bool
    last_reduces: bool


def reductions(cells: int) -> set[int]:
    """Numbers of the cells that halve the resolution: those at one and two thirds of the depth.

    Example:
        >>> sorted(reductions(8)), sorted(reductions(20)), sorted(reductions(1))
        ([2, 5], [6, 13], [0])
    """
    return {cells // 3, 2 * cells // 3}


class CellInputs(nn.Module):
    """Brings the outputs of the two last cells to the channels and resolution of this one.

    Args:
        shape: where the cell stands.
        affine: BatchNorms with scale and shift (derived networks) or without (supernets).
    """

    def __init__(self, shape: CellShape, *, affine: bool) -> None:
        super().__init__()
        adapt: nn.Module = nn.Conv2d(shape.second_last, shape.channels, 1, bias=False)
        if shape.last_reduces:  # then the second last output has twice the resolution
            adapt = FactorizedReduce(shape.second_last, shape.channels)
        self.second_last = nn.Sequential(
            nn.ReLU(), adapt, nn.BatchNorm2d(shape.channels, affine=affine)
        )
        self.last = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(shape.last, shape.channels, 1, bias=False),
            nn.BatchNorm2d(shape.channels, affine=affine),
        )

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> list[Tensor]:
        """The two input nodes of the cell, of equal shape."""
        return [self.second_last(second_last_BCHW), self.last(last_BCHW)]


class DARTSNetwork(nn.Module):
    """Stem, cells that each read the two outputs before them, pooled linear head.

    Args:
        make_cell: makes the cell that stands at a place.
        stem: maps images to the two inputs of the first cell.
        num_classes: number of classes K.
        channels: channels of the first cells.
        cells: number of cells.
        auxiliary: makes, from its input channels, a second head on the features after two thirds of
            the cells. It is the submodule `auxiliary`, runs in training alone, and whoever wants
            its logits listens with a forward hook.

    Shapes:
        input (B, C, H, W); output (B, K) logits.
    """

    def __init__(
        self,
        make_cell: Callable[[CellShape], nn.Module],
        stem: SmallStem | ImageNetStem,
        *,
        num_classes: int,
        channels: int,
        cells: int,
        auxiliary: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        second_last = last = stem.channels
        last_reduces = stem.reduces_last
        made: list[nn.Module] = []
        self.reduces = [number in reductions(cells) for number in range(cells)]
        for reduces in self.reduces:
            channels = 2 * channels if reduces else channels
            made.append(make_cell(CellShape(second_last, last, channels, reduces, last_reduces)))
            second_last, last, last_reduces = last, 4 * channels, reduces
        self.cells = nn.ModuleList(made)
        self.auxiliary_after = 2 * cells // 3
        # here the channels have doubled for the last time, so they are those of the output
        self.auxiliary = None if auxiliary is None else auxiliary(last)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, num_classes)

    def forward(
        self, x_BCHW: Tensor, for_normal: Sequence[Tensor] = (), for_reduce: Sequence[Tensor] = ()
    ) -> Tensor:
        """Logits (B, K); the rest is handed to every normal and every reduction cell."""
        second_last, last = self.stem(x_BCHW)
        for number, cell in enumerate(self.cells):
            for_cell = for_reduce if self.reduces[number] else for_normal
            second_last, last = last, cell(second_last, last, *for_cell)
            if self.training and self.auxiliary is not None and number == self.auxiliary_after:
                self.auxiliary(last)
        logits_BK: Tensor = self.head(self.pool(last).flatten(1))
        return logits_BK
