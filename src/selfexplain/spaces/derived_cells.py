"""Discrete cells, as a genotype says; the operations are those of the supernets.

Shape suffixes: B batch, C channels, H and W space.
"""

import torch
from torch import Tensor, nn

from selfexplain.spaces.darts_skeleton import CellInputs, CellShape
from selfexplain.spaces.drop_path import DropPath
from selfexplain.spaces.genotype import Cell
from selfexplain.spaces.mixing import total
from selfexplain.spaces.operations import PREPARATIONS, Weighted, operation


class EdgeOperation(nn.Module):
    """One operation, with scale and shift in its BatchNorms, and drop-path unless it is a skip.

    Args:
        name: a key of `OPERATIONS`.
        channels: channels C of input and output.
        stride: 1 or 2.
    """

    def __init__(self, name: str, channels: int, stride: int) -> None:
        super().__init__()
        chosen = operation(name, stride)
        self.preparation = chosen.preparation
        self.stride = stride
        after: list[nn.Module] = []
        if chosen.layers is not None:
            after.append(Weighted(name, channels, stride, affine=True))
        if chosen.preparation != "identity":
            after.append(DropPath())
        self.after = nn.Sequential(*after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The operation's result (B, C, H / stride, W / stride)."""
        out: Tensor = self.after(PREPARATIONS[self.preparation](x_BCHW, self.stride))
        return out

    def extra_repr(self) -> str:
        """What is done before the weights come in, for printing."""
        return f"{self.preparation}, stride={self.stride}"


class Edges(nn.Module):
    """All edges of a cell but those with the operation none; each node is the sum of its edges.

    Args:
        cell: the edges of each node.
        channels: channels C of every node.
        reduced: number of input nodes whose edges have stride 2.
    """

    def __init__(self, cell: Cell, channels: int, reduced: int = 0) -> None:
        super().__init__()
        self.sources = [[e.source for e in node if e.operation != "none"] for node in cell.nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                EdgeOperation(e.operation, channels, 2 if e.source < reduced else 1)
                for e in node
                if e.operation != "none"
            )
            for node in cell.nodes
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The input nodes and the computed nodes."""
        nodes = list(inputs)
        for sources, operations in zip(self.sources, self.nodes, strict=True):
            assert isinstance(operations, nn.ModuleList)
            arrived = [op(nodes[s]) for op, s in zip(operations, sources, strict=True)]
            nodes.append(total(arrived) if arrived else torch.zeros_like(nodes[0]))
        return nodes


class NASBench201Cell(nn.Module):
    """A discrete cell of NAS-Bench-201.

    Shapes:
        input and output (B, C, H, W).
    """

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges = Edges(cell, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last node."""
        nodes: list[Tensor] = self.edges([x_BCHW])
        return nodes[-1]


class DARTSCell(nn.Module):
    """A discrete cell of DARTS.

    Shapes:
        input: the outputs of the two last cells; output (B, 4 C, H, W), at half the resolution if
        the cell reduces.
    """

    def __init__(self, cell: Cell, shape: CellShape) -> None:
        super().__init__()
        self.inputs = CellInputs(shape, affine=True)
        self.edges = Edges(cell, shape.channels, reduced=2 if shape.reduces else 0)
        self.concat = cell.concat

    def forward(self, second_last_BCHW: Tensor, last_BCHW: Tensor) -> Tensor:
        """The nodes of the output, side by side."""
        nodes: list[Tensor] = self.edges(self.inputs(second_last_BCHW, last_BCHW))
        return torch.cat([nodes[number] for number in self.concat], dim=1)
