"""What searches stand on: how an architecture becomes weights, and what restrains it.

Every gradient-based search (first- and second-order DARTS, LeaSE, SANAS) can stand on every base:

    plain              the supernet takes the softmax of the architecture A (Liu et al., ICLR 2019)
    beta_darts         plain, and a penalty w(t) mean_e log sum_o exp A_eo with a growing w
                       (Ye et al., CVPR 2022)
    drnas              the weights are drawn anew in each step: theta ~ Dirichlet(elu(A) + 1)
                       (Chen et al., ICLR 2021)
    drnas_progressive  drnas, which halves each edge's operations after half of the search

Shape suffixes: E edges, O operations.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Dirichlet
from torch.nn import functional as F

from selfexplain.lease.options import BaseName, BaseOptions
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
    }
    return bases[options.base]
