"""What searches stand on: how an architecture becomes weights, and what restrains it.

Every gradient-based search (first- and second-order DARTS, LeaSE, SANAS) can stand on every base:

    plain              the supernet takes the softmax of the architecture A (Liu et al., ICLR 2019)
    beta_darts         plain, and a penalty w(t) mean_e log sum_o exp A_eo with a growing w
                       (Ye et al., CVPR 2022)
    drnas              the weights are drawn anew in each step: theta ~ Dirichlet(elu(A) + 1)
                       (Chen et al., ICLR 2021)
    drnas_progressive  drnas, which halves each edge's operations after half of the search
    pdarts             plain, in three supernets, each deeper and of fewer operations than the last
                       (Chen et al., ICCV 2019)

Shape suffixes: E edges, O operations.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Dirichlet
from torch.nn import functional as F

from selfexplain.errors import InputError
from selfexplain.lease.options import BaseName, BaseOptions
from selfexplain.spaces import FAMILIES, Genotype, Supernet
from selfexplain.spaces.genotype import edges_of
from selfexplain.spaces.supernet import NEVER

Architecture = Mapping[str, Tensor]
"""Name -> tensor, as `Supernet.architecture_shapes` says: (E, O), or (E,) of edges' own numbers."""

# Formulas.


def beta_regularizer(architecture: Architecture) -> Tensor:
    """The mean over a cell's edges of log sum_o exp A_eo, summed over the kinds of cells.

    The gradient towards A_eo is that edge's softmax over the number of edges: as much as an
    operation weighs, so much it is held back (the Beta-Decay of Ye et al., arXiv 2203.01665, as
    their published code has it). Numbers of whole edges (pcdarts) are left out. That cells of
    several kinds are summed is our choice; the published code searches one kind.
    """
    cells = [tensor.logsumexp(-1).mean() for tensor in architecture.values() if tensor.dim() == 2]
    return torch.stack(cells).sum()


def concentration(numbers: Tensor) -> Tensor:
    """DrNAS's Dirichlet parameters, elu(A) + 1: 1 at A = 0, where all weights are as probable."""
    # A lower bound, as exp(A) underflows; it is so low that nearly all draws are zero.
    return (F.elu(numbers) + 1).clamp_min(1e-6)


def dirichlet_sample(concentration_EO: Tensor, generator: torch.Generator) -> Tensor:
    """Weights (E, O) drawn from each edge's Dirichlet, differentiable by torch's pathwise gradient.

    torch draws them with its global generator of the CPU, which here is lent the state of ours.
    """
    on_cpu_EO = concentration_EO.cpu()
    users = torch.get_rng_state()
    try:
        torch.set_rng_state(generator.get_state())
        sample_EO: Tensor = Dirichlet(on_cpu_EO).rsample()
        generator.set_state(torch.get_rng_state())
    finally:
        torch.set_rng_state(users)
    return sample_EO.to(concentration_EO.device)


def masked(numbers: Architecture, kept: Architecture) -> dict[str, Tensor]:
    """The numbers where they are kept, elsewhere one whose softmax is exactly zero.

    Example:
        >>> kept = {"cell": torch.tensor([[True, False, True]])}
        >>> masked({"cell": torch.zeros(1, 3)}, kept)["cell"].softmax(-1)
        tensor([[0.5000, 0.0000, 0.5000]])
    """
    return {name: t.masked_fill(~kept[name].to(t.device), NEVER) for name, t in numbers.items()}


def best_kept(numbers_EO: Tensor, kept_EO: Tensor, most: int) -> Tensor:
    """Of each edge's kept operations the `most` largest, as a mask (E, O); all if fewer are."""
    most = min(most, numbers_EO.shape[1])
    best = numbers_EO.detach().masked_fill(~kept_EO, -torch.inf).topk(most, dim=1).indices
    return torch.zeros_like(kept_EO).scatter(1, best, True) & kept_EO


def without_operation(numbers_EO: Tensor, edge: int, operation: int, none: int) -> Tensor:
    """Numbers whose softmax is the same, but that the operation's weight is that of `none`, too.

    Example:
        >>> without_operation(torch.zeros(1, 4), 0, operation=2, none=0).softmax(-1)
        tensor([[0.5000, 0.2500, 0.0000, 0.2500]])
    """
    if operation == none:
        return numbers_EO
    logs_EO = numbers_EO.log_softmax(-1)
    logs_EO[edge, none] = torch.logaddexp(logs_EO[edge, none], logs_EO[edge, operation])
    logs_EO[edge, operation] = NEVER
    return logs_EO


def genotype_of_few_skips(
    supernet: Supernet, numbers: Architecture, cell: str, most: int
) -> Genotype:
    """The genotype whose cell has at most so many skip connections.

    While there are more, the one with the smallest weight is left out of the choice, as in the
    published code of P-DARTS.
    """
    operations = FAMILIES[supernet.family].operations
    none, skip = operations.index("none"), operations.index("skip_connect")
    while True:
        genotype = supernet.genotype(numbers)
        taken = [
            edges_of(supernet.family).index((edge.source, target))
            for target, edges in enumerate(
                genotype.cells[cell].nodes, FAMILIES[supernet.family].inputs
            )
            for edge in edges
            if edge.operation == "skip_connect"
        ]
        if len(taken) <= most:
            return genotype
        weights_E = numbers[cell].softmax(-1)[:, skip]
        weakest = min(taken, key=lambda row: float(weights_E[row]))
        without = without_operation(numbers[cell], weakest, skip, none)
        numbers = {**numbers, cell: without}


# Bases.


class Base:
    """The plain base: the supernet takes the softmax of the architecture itself.

    Other bases replace some of its methods. A base has no state: what a search keeps of the
    operations is the search's (`ArchitectureSearch.kept`).

    Example:
        >>> architecture = {"cell": torch.zeros(2, 3)}
        >>> Base().relax(architecture, torch.Generator()) is architecture
        True
    """

    def check(self, family: str) -> None:
        """Raise InputError if the base is not made for the cells of a family."""

    def relax(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Numbers whose softmax a step's supernet mixes with, differentiable by the architecture.

        The generator, of the CPU, is what a base that samples draws from.
        """
        del generator
        return architecture

    def expected(self, architecture: Architecture) -> Architecture:
        """Numbers whose softmax is the mean of what `relax` gives: what the architecture means."""
        return architecture

    def penalty(self, architecture: Architecture, done: float) -> Tensor | None:
        """Scalar that joins the architecture's loss after a share `done` of the search, or None."""
        del architecture, done
        return None

    def most_operations(self, operations: int, done: float) -> int:
        """How many of an edge's operations are kept after a share `done` of the search."""
        del done
        return operations

    def rests(self, done: float) -> bool:
        """Whether the architecture rests now, besides the warm-up at the start of the search."""
        del done
        return False

    def stage(self, done: float) -> tuple[int, float]:
        """Which supernet the search is at, from 0, and the share done of its training."""
        return 0, done

    def skip_dropout(self, done: float) -> float:
        """Share of what skip connections carry that is dropped in training."""
        del done
        return 0.0

    def genotype(self, supernet: Supernet, numbers: Architecture) -> Genotype:
        """The cells that numbers, as `expected` gives them, stand for."""
        return supernet.genotype(numbers)


class BetaDARTS(Base):
    """beta-DARTS: the beta regulariser, with a weight that grows linearly from 0.

    Args:
        weight: at the end of the search. 50 is that of the published search of NAS-Bench-201,
            which is first order, with an architecture's learning rate of 3e-4, for 100 epochs.

    Example:
        >>> base = BetaDARTS(50.0)
        >>> base.penalty({"cell": torch.zeros(6, 5)}, done=0.5)
        tensor(40.2359)
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def penalty(self, architecture: Architecture, done: float) -> Tensor | None:
        """Weight times done times the regulariser."""
        return self.weight * done * beta_regularizer(architecture)


class DrNAS(Base):
    """DrNAS: theta ~ Dirichlet(elu(A) + 1), one draw for all networks of a step.

    The hypergradient is taken towards log theta, whose softmax is theta, and carried back to A by
    the pathwise derivative of the draw. The anchor regulariser, which holds elu(A) + 1 near 1, is
    in the published code a weight decay of A (1e-3), which every search here has by default
    (`Rates.architecture_weight_decay`). Edges' own numbers (pcdarts) are not drawn.

    The published progressive search also widens the share of channels that go through the
    operations; here all do (or in pcdarts a quarter) all along.

    Args:
        progressive: keep half of each edge's operations from the middle of the search on (of 5 the
            best 3, of 8 the best 4, as published), after which the architecture rests for a tenth
            of the search.

    Example:
        >>> numbers = DrNAS().relax({"cell": torch.zeros(6, 5)}, torch.Generator())["cell"]
        >>> numbers.exp().sum(1)
        tensor([1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, *, progressive: bool = False) -> None:
        self.progressive = progressive

    def relax(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Log theta; the draws come in the order of the names."""
        return {
            name: _log(dirichlet_sample(concentration(t), generator)) if t.dim() == 2 else t
            for name, t in architecture.items()
        }

    def expected(self, architecture: Architecture) -> Architecture:
        """Log of the parameters, whose shares are the mean of theta."""
        return {
            name: concentration(t).log() if t.dim() == 2 else t for name, t in architecture.items()
        }

    def most_operations(self, operations: int, done: float) -> int:
        """Half of them, rounded up, in the second half of a progressive search."""
        return math.ceil(operations / 2) if self.progressive and done >= 0.5 else operations

    def rests(self, done: float) -> bool:
        """For a tenth of the search after the operations were halved."""
        return self.progressive and 0.5 <= done < 0.6


def _log(weights_EO: Tensor) -> Tensor:
    """The logarithm, with no derivative where a weight is zero to float32's precision."""
    return weights_EO.clamp_min(1e-12).log()


class PDARTS(Base):
    """P-DARTS: three supernets, each deeper than the last and of fewer operations, of equal time.

    Before the second and the third, each edge's operations with the smallest weights are dropped.
    Weights, architecture and learning rates then start anew; the architecture rests for the first
    two fifths of a stage (10 of 25 epochs). Skip connections are dropped out, with a rate that
    falls linearly while the architecture rests, then exponentially from its start (the published
    code's exp(-0.2 epoch), of 25 epochs). In the end the normal cell has at most two skip
    connections (Chen et al., ICCV 2019, arXiv 1904.12760). For cells of the family darts. The
    numbers are those of the published code and its commands for CIFAR-10.

    Example:
        >>> base = PDARTS()
        >>> [base.most_operations(8, done) for done in (0, 1 / 3, 2 / 3)]
        [8, 5, 3]
    """

    DEPTHS = (5, 11, 17)
    OPERATIONS = (8, 5, 3)
    SKIP_DROPOUT = (0.1, 0.4, 0.7)
    RESTING = 0.4
    MOST_SKIPS = 2

    def check(self, family: str) -> None:
        """Cells of darts alone."""
        if family != "darts":
            raise InputError(
                f"base pdarts is made for the cells of darts, but these are of {family}; pass "
                "space darts or pcdarts, or another base"
            )

    def stage(self, done: float) -> tuple[int, float]:
        """Thirds of the search."""
        thirds = round(3 * done, 9)  # epochs are whole numbers, and must not miss a boundary
        number = min(int(thirds), 2)
        return number, round(thirds - number, 9)

    def cells(self, stage: int, first: int | None) -> int:
        """Cells of a stage's supernet: of 5, 11 and 17 those of the first one's depth (None: 5)."""
        return round((first or self.DEPTHS[0]) * self.DEPTHS[stage] / self.DEPTHS[0])

    def most_operations(self, operations: int, done: float) -> int:
        """8, 5, 3."""
        return min(operations, self.OPERATIONS[self.stage(done)[0]])

    def rests(self, done: float) -> bool:
        """In the first two fifths of each stage."""
        return self.stage(done)[1] < self.RESTING

    def skip_dropout(self, done: float) -> float:
        """The stage's rate, falling."""
        number, within = self.stage(done)
        if within < self.RESTING:
            return self.SKIP_DROPOUT[number] * (1 - within)
        return self.SKIP_DROPOUT[number] * math.exp(-5 * (within - self.RESTING))

    def genotype(self, supernet: Supernet, numbers: Architecture) -> Genotype:
        """With at most two skip connections in the normal cell."""
        return genotype_of_few_skips(supernet, numbers, "normal", self.MOST_SKIPS)


def make_base(options: BaseOptions) -> Base:
    """The base that the options name.

    Example:
        >>> type(make_base(BaseOptions(base="drnas"))).__name__
        'DrNAS'
    """
    bases: dict[BaseName, Base] = {
        "plain": Base(),
        "beta_darts": BetaDARTS(options.beta_weight),
        "drnas": DrNAS(),
        "drnas_progressive": DrNAS(progressive=True),
        "pdarts": PDARTS(),
    }
    return bases[options.base]
