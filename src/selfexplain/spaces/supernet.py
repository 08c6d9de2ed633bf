"""Supernets: mixed operations, and an architecture that is data, not a parameter.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations, S shared
results.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.spaces.genotype import FAMILIES, Cell, Genotype, edges_of
from selfexplain.spaces.operations import PREPARATIONS, Weighted, operation
from selfexplain.spaces.space import SPACES, Form, check_image_size, check_numbers

# How the nodes of a mixed cell are computed: every node sends to all later ones at once.
#
# What a node sends is a tuple of tensors (a partially connected cell sends two), and what arrives
# at a node is summed tensor by tensor.


Terms = tuple[Tensor, ...]


def rows_by_source(family: str) -> list[list[int]]:
    """For every node that sends, the rows of its edges, by target.

    Example:
        >>> rows_by_source("nasbench201")
        [[0, 1, 3], [2, 4], [5]]
    """
    edges = edges_of(family)
    sources = range(max(target for _, target in edges))
    return [[i for i, edge in enumerate(edges) if edge[0] == source] for source in sources]


def propagate(
    inputs: Sequence[Tensor],
    senders: Iterable[Callable[[Tensor], Sequence[Terms]]],
    join: Callable[..., Tensor],
) -> list[Tensor]:
    """The computed nodes of a cell.

    Args:
        inputs: the cell's input nodes.
        senders: for each node but the last, what it sends to every later computed node.
        join: makes a node of the sums of the parts that arrived.

    Returns:
        The computed nodes, in order.

    Example:
        >>> one = lambda node: [(node,), (2 * node,)]
        >>> two = lambda node: [(node,)]
        >>> propagate([torch.ones(1)], [one, two], as_it_is)
        [tensor([1.]), tensor([3.])]
    """
    nodes = list(inputs)
    waiting: list[list[Terms]] = []
    for number, send in enumerate(senders):
        sent = send(nodes[number])
        waiting = waiting or [[] for _ in sent]
        for arrived, parts in zip(waiting, sent, strict=True):
            arrived.append(parts)
        if number + 1 >= len(inputs):  # nothing earlier is left to send to the next node
            nodes.append(join(*map(total, zip(*waiting.pop(0), strict=True))))
    return nodes[len(inputs) :]


def picked(weights_EO: Tensor, places: Sequence[int], dim: int) -> Tensor:
    """Some rows or columns of the weights, without an index that each call copies to a GPU."""
    return torch.stack([weights_EO.select(dim, place) for place in places], dim)


def as_it_is(arrived: Tensor) -> Tensor:
    """The node, where what arrived is one tensor and needs nothing more.

    Example:
        >>> as_it_is(torch.ones(1))
        tensor([1.])
    """
    return arrived


def total(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors."""
    return reduce(add, tensors)


def combinations(results: Sequence[Tensor], weights_ES: Tensor) -> list[Tensor]:
    """E weighted sums of S results (B, C, H, W) that all edges share; weights (E, S).

    One matrix product for all edges: its gradient towards the weights needs no tensor of the size
    of the images for each edge and result, as products one by one do. The memory format is that of
    the first result.
    """
    last = results[0].stride(1) == 1  # channels last: then they are stacked as they lie in memory
    stacked = torch.stack([r.permute(0, 2, 3, 1) if last else r for r in results])
    combined = (weights_ES @ stacked.flatten(1)).unbind()
    in_shape = [c.reshape(stacked.shape[1:]) for c in combined]
    return [c.permute(0, 3, 1, 2) if last else c for c in in_shape]


class MixedOp(nn.Module):
    """What a node sends to all later ones, each edge the weighted sum of its operations.

    What has no weights of its own is computed once for all edges: the ReLU, the poolings and, in a
    supernet of DARTS, the BatchNorms behind the poolings. These have no scale and shift, and the
    running statistics of one for each edge would be equal, as all would see the same features.

    What has weights is computed edge by edge, or for all edges bundled in convolutions of E times
    the channels and as many groups. BatchNorms go channel by channel and see no difference.

    Args:
        family: key of `FAMILIES`; its operations are mixed.
        channels: channels C of the node.
        edges: number E of later nodes.
        stride: of the edges; edges that leave the same node have the same.
        bundled: compute the edges together: faster for few channels and small images, where the
            number of calls is what costs.
        pool_norms: put BatchNorms behind the poolings.

    Shapes:
        input (B, C, H, W) and weights (E, O); output E tensors (B, C, H / stride, W / stride).
    """

    def __init__(
        self,
        family: str,
        channels: int,
        edges: int,
        stride: int = 1,
        *,
        bundled: bool,
        pool_norms: bool = False,
    ) -> None:
        super().__init__()
        self.names = FAMILIES[family].operations
        self.channels = channels
        self.stride = stride
        self.bundle = edges if bundled else 1
        self.skip_dropout = 0.0
        computed = [name for name in self.names if name != "none"]
        self.shared = [name for name in computed if operation(name, stride).layers is None]
        self.pool_norms = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(channels, affine=False)
                for name in self.shared
                if pool_norms and "pool" in name
            }
        )
        self.bundles = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Weighted(name, channels, stride, affine=False, edges=self.bundle)
                    for name in computed
                    if name not in self.shared
                }
            )
            for _ in range(edges // self.bundle)
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> list[Terms]:
        """What each later node receives."""
        drops = self.training and self.skip_dropout > 0 and "skip_connect" in self.shared
        shared = [name for name in self.shared if not (drops and name == "skip_connect")]
        columns = [self.names.index(name) for name in shared]
        results = [self._shared_result(name, x_BCHW) for name in shared]
        sent = combinations(results, picked(weights_EO, columns, 1))
        if drops:  # each edge for itself, so there is nothing to share
            weights_E = weights_EO[:, self.names.index("skip_connect")]
            skips = [w * F.dropout(x_BCHW, self.skip_dropout) for w in weights_E]
            sent = [s + skip for s, skip in zip(sent, skips, strict=True)]
        active = PREPARATIONS["relu"](x_BCHW, self.stride)
        scales_OEC = weights_EO.T[:, :, None].repeat(1, 1, self.channels)
        worked: list[Tensor] = []
        for bundle, scales in zip(
            self.bundles, torch.split(scales_OEC, self.bundle, dim=1), strict=True
        ):
            assert isinstance(bundle, nn.ModuleDict)
            scale = dict(zip(self.names, scales.flatten(1).unbind(), strict=True))
            mixed = total([module(active, scale[name]) for name, module in bundle.items()])
            worked.extend(mixed.chunk(self.bundle, dim=1))
        return [(a + b,) for a, b in zip(sent, worked, strict=True)]

    def _shared_result(self, name: str, x_BCHW: Tensor) -> Tensor:
        prepared = PREPARATIONS[operation(name, self.stride).preparation](x_BCHW, self.stride)
        if name not in self.pool_norms:
            return prepared
        normalised: Tensor = self.pool_norms[name](prepared)
        return normalised


def set_skip_dropout(model: nn.Module, probability: float) -> None:
    """Drop a share of what skip connections of stride 1 carry in training, in all mixed cells."""
    for module in model.modules():
        if isinstance(module, MixedOp):
            module.skip_dropout = probability


# What all supernets have in common: their architecture is data, not a parameter.


class Supernet(nn.Module):
    """A network that computes all candidate operations and mixes them by an architecture.

    The architecture is an argument of `forward`, so that gradients towards weights, architecture
    and images can each be taken alone, and `torch.func.functional_call(supernet, weights, (x,
    architecture))` puts other weights in. It holds raw numbers; the softmax is taken inside.

    Attributes:
        family: the family of cells that the supernet searches, a key of `FAMILIES`.
        architecture_shapes: name -> shape of each tensor of an architecture.

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=10, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> architecture = supernet.new_architecture()
        >>> supernet(torch.zeros(2, 1, 8, 8), architecture).shape
        torch.Size([2, 10])
    """

    family: str
    architecture_shapes: Mapping[str, tuple[int, ...]]

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        raise NotImplementedError

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """The discrete cells that an architecture stands for."""
        raise NotImplementedError

    def checked(
        self, architecture: Mapping[str, Tensor], x_BCHW: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """The architecture, in the images' type and place if there are images.

        Raises:
            InputError: it has other tensors than `architecture_shapes` says.
        """
        shapes = dict(self.architecture_shapes)
        given = {name: tuple(tensor.shape) for name, tensor in architecture.items()}
        if given != shapes:
            raise InputError(
                f"the architecture has {_listed(given)}; this supernet needs {_listed(shapes)}: "
                "pass what its new_architecture() returns"
            )
        if x_BCHW is None:
            return architecture
        return {name: tensor.to(x_BCHW) for name, tensor in architecture.items()}

    def new_architecture(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Start values, 1e-3 times standard normal numbers, as the published searches start.

        Args:
            generator: CPU generator to draw from; None for torch's global one.

        Returns:
            Name -> float32 tensor on the CPU.
        """
        return {
            name: 1e-3 * torch.randn(shape, generator=generator)
            for name, shape in self.architecture_shapes.items()
        }


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensors"


class WithArchitecture(nn.Module):
    """A supernet with its architecture, as a classifier of images alone.

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=10, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> classifier = WithArchitecture(supernet, supernet.new_architecture())
        >>> classifier(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, supernet: nn.Module, architecture: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.supernet, self.architecture = supernet, architecture

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        logits_BK: Tensor = self.supernet(x_BCHW, self.architecture)
        return logits_BK


# From a genotype back to an architecture that computes it alone.


NEVER = -1e4
"""A raw number whose softmax next to a 0 is exactly zero, in half precision too."""


def one_hot_architecture(supernet: Supernet, genotype: Genotype) -> dict[str, Tensor]:
    """The architecture with which a supernet computes the cells of a genotype, and nothing else.

    An edge that the genotype lacks is `none`; where edges have weights, those of a node's edges
    are equal.

    Args:
        supernet: of the genotype's family.
        genotype: the cells.

    Returns:
        Name -> float32 tensor on the CPU, as `Supernet.new_architecture` gives them.

    Raises:
        InputError: the genotype is of another family.

    Example:
        >>> from selfexplain.spaces import build_supernet, random_genotype
        >>> supernet = build_supernet(
        ...     "pcdarts", num_classes=2, in_channels=1, image_size=8, channels=8, cells=3
        ... )
        >>> genotype = random_genotype("darts")
        >>> supernet.genotype(one_hot_architecture(supernet, genotype)) == genotype
        True
    """
    if genotype.family != supernet.family:
        raise InputError(
            f"the genotype is of the family {genotype.family}, but the supernet searches "
            f"{supernet.family}; pass a genotype of {supernet.family}"
        )
    architecture = {}
    for name, shape in supernet.architecture_shapes.items():
        chosen_EO = _chosen(genotype.cells[name.removesuffix("_edges")], genotype.family)
        numbers_EO = torch.where(chosen_EO, 0.0, NEVER)
        # Weights of edges: those whose operation is `none` by the genotype's silence.
        architecture[name] = numbers_EO if len(shape) == 2 else _edges(chosen_EO, genotype.family)
    return architecture


def _chosen(cell: Cell, family: str) -> Tensor:
    """Which operation (E, O) each edge has."""
    rules = FAMILIES[family]
    operation_of = {
        (edge.source, number): edge.operation
        for number, node in enumerate(cell.nodes, rules.inputs)
        for edge in node
    }
    names = [operation_of.get(edge, "none") for edge in edges_of(family)]
    return torch.tensor([[name == o for o in rules.operations] for name in names])


def _edges(chosen_EO: Tensor, family: str) -> Tensor:
    none = FAMILIES[family].operations.index("none")
    return torch.where(chosen_EO[:, none], NEVER, 0.0)


# Supernets by the name of their space.


def build_supernet(
    space: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    channels: int = 16,
    cells: int | None = None,
    form: Form = "small",
) -> Supernet:
    """Build the untrained supernet of a space; its weights come from torch's global generator.

    Args:
        space: nasbench201 (Dong and Yang 2020), darts (Liu et al. 2019) or pcdarts (Xu et al.
            2020).
        num_classes: number of classes K.
        in_channels: channels C of the images.
        image_size: height and width of the images.
        channels: channels of the first cells: even for darts, divisible by 8 for pcdarts.
        cells: nasbench201: cells of each of the three stages, None for 5; darts and pcdarts: cells
            of the whole network, at least 3, None for 8; those at one and two thirds reduce.
        form: small, or imagenet (darts and pcdarts), which starts with three convolutions of stride
            2: its cells see a 64th of the pixels.

    Returns:
        A supernet that maps images (B, C, H, W) and an architecture to logits (B, K).

    Raises:
        InputError: the space is unknown or lacks the form, a number is below 1, the channels do not
            divide, or the images are too small or do not halve as often as the network reduces.

    Example:
        >>> supernet = build_supernet(
        ...     "darts", num_classes=10, in_channels=1, image_size=8, channels=4, cells=3
        ... )
        >>> {name: tuple(a.shape) for name, a in supernet.new_architecture().items()}
        {'normal': (14, 8), 'reduce': (14, 8)}
    """
    if space not in SPACES:
        near = difflib.get_close_matches(space, SPACES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"there is no space {space!r}{hint}; pass one of {', '.join(SPACES)}")
    chosen = SPACES[space]
    cells = chosen.supernet_cells if cells is None else cells
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "channels": channels}
    check_numbers(**sizes, cells=cells)
    for problem in (chosen.cells_problem(cells), chosen.channels_problem(channels)):
        if problem:
            raise InputError(problem)
    if lacking := chosen.lacking(form, auxiliary=False):
        raise InputError(f"{lacking}; pass form='small'")
    check_image_size(image_size, chosen.halvings(cells, form))
    named = {} if len(chosen.sizes) == 1 else {"form": form}
    return chosen.supernet(**sizes, **named, image_size=image_size, cells=cells)
