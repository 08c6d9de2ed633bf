"""The levels' losses, and what every gradient-based search does: one step moves all together.

    I    explainer    E*(A)     = argmin_E      CE(f(x; E, A), y)
    II   delta        delta*    = argmax_delta  CE(f(x + delta; E*, A), f(x; E*, A))
    III  audience     W*(delta) = argmin_W      CE(g(x; W), y) + gamma CE(g(x (*) delta*; W), y)
    IV   architecture             min_A         CE(f(x; E*, A), y) + lambda CE(g(x; W*), y)

I to III on training images, IV on validation images (Hosseini and Xie, arXiv 2012.12899). DARTS has
I and IV alone. Each function makes one level's loss: a scalar of variables named as in the second
column. The explainer f(v, x) and the audience g(v, x) find their weights, and the architecture,
among the variables v.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from selfexplain.errors import InputError
from selfexplain.hypergradients import (
    Level,
    Mode,
    World,
    as_function,
    finite,
    take_steps,
    unroll_each,
)
from selfexplain.hypergradients.batch_norm import laid_out_as
from selfexplain.hypergradients.level import SINGLE, Function, Variable, Variables, leaves, like
from selfexplain.lease.bases import Architecture, Base, best_kept, masked
from selfexplain.lease.options import Rates
from selfexplain.spaces import Genotype, Supernet
from selfexplain.spaces.supernet import set_skip_dropout
from selfexplain.training.optimizers import make_optimizer

Loss = Callable[[Variables], Tensor]

Network = Callable[[Variables, Tensor], Tensor]
"""Of the variables and images (B, C, H, W): logits (B, K)."""

ImageFunction = Callable[[Variables], Tensor]
"""Of the variables: a perturbation, or what is shown of it, (B, C, H, W)."""


def explainer(function: Function) -> Network:
    """f(v, x) = f(x; E, A), of a supernet as a function (weights, x, architecture)."""
    return lambda v, x: function(v["explainer"], x, v["architecture"])


def audience(function: Function) -> Network:
    """g(v, x) = g(x; W), of a network as a function (weights, x)."""
    return lambda v, x: function(v["audience"], x)


def explainer_learns(f: Network, x_BCHW: Tensor, y_B: Tensor) -> Loss:
    """Level I: CE(f(x; E, A), y), on training images."""
    return lambda v: cross_entropy(f(v, x_BCHW), y_B)


def explainer_explains(
    f: Network, x_BCHW: Tensor, delta: ImageFunction, target: Callable[[Tensor], Tensor]
) -> Loss:
    """Level II: the sum over images of CE(f(x + delta; E, A), target); delta climbs it.

    A sum, not a mean, as each image has a perturbation of its own. Delta is in units of x; the
    target makes classes (B,) of the explainer's logits.
    """

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return cross_entropy(logits_BK, target(logits_BK), reduction="sum")

    return loss


def explainer_scores(
    f: Network, x_BCHW: Tensor, delta: ImageFunction, target: Callable[[Tensor], Tensor]
) -> Loss:
    """In place of level II, for plain saliency: the sum over images of the target's score."""

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return logits_BK.gather(1, target(logits_BK)[:, None]).sum()

    return loss


def audience_learns(g: Network, x_BCHW: Tensor, y_B: Tensor) -> Loss:
    """Level III, the first term: CE(g(x; W), y), on training images."""
    return lambda v: cross_entropy(g(v, x_BCHW), y_B)


def audience_learns_explained(
    g: Network, y_B: Tensor, gamma: float, explained: ImageFunction
) -> Loss:
    """Level III, the second: gamma CE(g(x (*) delta; W), y), on what the explainer explained.

    Its network has BatchNorm statistics of its own, those of explained images.
    """
    return lambda v: gamma * cross_entropy(g(v, explained(v)), y_B)


def explainer_relearns(f: Network, g: Network, x_BCHW: Tensor, y_B: Tensor, lambda_: float) -> Loss:
    """Level IV: CE(f(x; E, A), y) + lambda CE(g(x; W), y), on validation images."""

    def loss(v: Variables) -> Tensor:
        value = cross_entropy(f(v, x_BCHW), y_B)
        return value + lambda_ * cross_entropy(g(v, x_BCHW), y_B) if lambda_ else value

    return loss


class OwnPrediction:
    """The classes that the explainer predicts at its first call, made where delta is zero.

    Later calls get the same classes. (The soft prediction would not do as a target: the gradient of
    the cross-entropy against it vanishes at delta = 0.)
    """

    def __init__(self) -> None:
        self.classes_B: Tensor | None = None

    def __call__(self, logits_BK: Tensor) -> Tensor:
        """Classes (B,) of the logits of the first call."""
        if self.classes_B is None:
            self.classes_B = logits_BK.detach().argmax(1)
        return self.classes_B


# A network whose weights are updated along gradients that were computed elsewhere.


Statistics = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Buffers of a network by name: those that are kept, and what a step has made of them."""


def keep_statistics(statistics: Sequence[Statistics], processes: World = SINGLE) -> None:
    """Take over what a step has made of running statistics.

    With several processes their means are taken; counts are the same in all.
    """
    for kept, updated in statistics:
        floats = [name for name in updated if updated[name].is_floating_point()]
        means = processes.mean([updated[name] for name in floats])
        new = updated | dict(zip(floats, means, strict=True))
        copy_each(list(kept.values()), [new[name] for name in kept])


def _draws(module: nn.Module) -> bool:
    """Whether a module of torch or timm draws random numbers in training mode."""
    share = getattr(module, "p", getattr(module, "drop_prob", 0))
    return "Drop" in type(module).__name__ and bool(share)


def copy_each(into: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    """Copy tensors into others of the same shapes, type by type in one call: they may be many."""
    by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for old, tensor in zip(into, new, strict=True):
        pair = by_dtype.setdefault(old.dtype, ([], []))
        pair[0].append(old)
        pair[1].append(tensor)
    for pair in by_dtype.values():
        torch._foreach_copy_(*pair)


class Learner:
    """A network, the SGD that moves it, and the calls that keep or leave its running statistics.

    The network is put in training mode.
    """

    def __init__(self, module: nn.Module, lr: float, rates: Rates) -> None:
        self.module = module.train()
        self.start_lr, self.rates = lr, rates
        trainable = [p for p in module.parameters() if p.requires_grad]
        # A level's step along its gradient stands for this one, so there is no choice of another.
        self.optimizer = make_optimizer(
            "sgd",
            trainable,
            lr=lr,
            momentum=rates.momentum,
            weight_decay=rates.weight_decay,
            nesterov=False,
        )
        self._statistics: list[Statistics] = []
        self._device_lr: Tensor | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trainable parameters by name, without a graph, in the module's memory."""
        return {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

    @property
    def lr(self) -> float | Tensor:
        """The learning rate now; a scalar on the device once `lr_on_device` was called."""
        if self._device_lr is not None:
            return self._device_lr
        return float(self.optimizer.param_groups[0]["lr"])

    def lr_on_device(self) -> None:
        """Keep the learning rate in the device's memory, where recorded steps look it up."""
        weight = next(self.module.parameters())
        self._device_lr = torch.tensor(float(self.lr), dtype=weight.dtype, device=weight.device)

    def set_lr(self, factor: float, start: float = 1.0) -> None:
        """Set the learning rate between its end (0) and this share of its start value (1)."""
        high = start * self.start_lr
        low = min(self.rates.lr_min, high)
        lr = low + (high - low) * factor
        self.optimizer.param_groups[0]["lr"] = lr
        if self._device_lr is not None:
            self._device_lr.fill_(lr)

    def forget_momentum(self) -> None:
        """As if the optimizer had made no step."""
        self.optimizer.state.clear()

    def update(self, gradient: dict[str, Tensor]) -> None:
        """One step along a gradient by name."""
        parameters = dict(self.module.named_parameters())
        for name, found in gradient.items():
            parameters[name].grad = found
        nn.utils.clip_grad_norm_(parameters.values(), self.rates.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def own_step(self, buffers: dict[str, Tensor] | None = None) -> Function:
        """The network as a function of its parameters whose first call is its own training step.

        The first call moves copies of the running statistics (of the module, or these buffers),
        which `take_statistics` then hands over; later ones, at displaced parameters, leave them
        alone.
        """
        kept = dict(self.module.named_buffers()) if buffers is None else buffers
        updated = {name: buffer.clone() for name, buffer in kept.items()}
        self._statistics.append((kept, updated))
        later = as_function(self.module, kept)
        calls = 0

        def function(weights: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                return functional_call(self.module, {**updated, **weights}, arguments)
            return later(weights, *arguments)

        return function

    def take_statistics(self) -> list[Statistics]:
        """The running statistics of the own steps since the last call."""
        taken, self._statistics = self._statistics, []
        return taken

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, in memory of its own."""
        state = {"module": self.module.state_dict(), "optimiser": self.optimizer.state_dict()}
        return copy.deepcopy(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimiser"])


Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) and labels (B,)."""

WEIGHTS_DISPLACEMENT = 1e-3
"""Root mean square displacement of a supernet's weights in a difference. At the customary length
of 0.01 over all weights together, a difference through ReLUs is mostly noise: see
docs/hypergradients.md.
"""

MAX_SKIPPED_STEPS = 5
"""Steps in a row that may be skipped before a search stops."""


class SearchDivergedError(InputError):
    """Several gradients in a row were not finite.

    Example:
        >>> issubclass(SearchDivergedError, InputError)
        True
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """One step of a search, as levels and an outer loss.

    Args:
        levels: each takes one gradient step; those named as a learner update its weights.
        outer: the architecture's loss.
        audience_outer: a second loss of the architecture, whose hypergradient is taken apart and
            joined to that of the first by `join`; None for none.
        start: start values of variables that belong to this step alone.
        mode: how the hypergradient is computed; None to ignore how the stepped variables depend on
            the architecture: the outer loss is then taken before the steps (first order).
    """

    levels: Sequence[Level]
    outer: Callable[[Variables], Tensor]
    audience_outer: Callable[[Variables], Tensor] | None = None
    start: dict[str, Variable] = field(default_factory=dict)
    mode: Mode | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """What a step computes before anything is updated; everything is detached.

    Args:
        losses: of each level, and of the outer one (validation), scalars by name.
        finite: whether all gradients are, a tensor ().
        gradients: of each learner's loss, towards its weights.
        hypergradients: of each outer loss; none in a warm-up.
        statistics: running statistics of the networks' own steps.
    """

    losses: dict[str, Tensor]
    finite: Tensor
    gradients: dict[str, Variable]
    hypergradients: list[Variable]
    statistics: list[Statistics]


@dataclass(frozen=True, kw_only=True, slots=True)
class BegunStep:
    """A step that is computed, perhaps not yet to its end, and by which nothing has moved.

    Args:
        found: what was computed.
        hypergradients: of each outer loss, towards the architecture itself; none in a warm-up.
        numbers: whether all of it is finite, and the losses, a tensor (1 + L,).
    """

    found: Computed
    hypergradients: list[Variable]
    numbers: Tensor


Compute = Callable[..., Computed]
"""Of training images and labels, held-out images and labels, and the architecture's tensors."""


class ArchitectureSearch(ABC):
    """Moves a supernet's architecture by validation batches, its weights by training batches.

    A search is a declaration of its levels (`declare`). Weights and architecture are updated
    together, along gradients that are taken at the same point.

    Args:
        supernet: the explainer, on its device; it is put in training mode and trained in place.
        rates: how weights and architecture are updated.
        seed: of the start architecture, and of all that a step draws.
        processes: those that share each batch, equal parts each; all are then updated alike.
        base: how the architecture becomes the weights of the operations; None for a softmax.

    Attributes:
        kept: name -> mask, in the architecture's shapes: what of it still counts.

    Example:
        >>> from selfexplain.lease import DARTS
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=8, channels=4, cells=1
        ... )
        >>> search = DARTS(supernet)
        >>> batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> sorted(search.step(batch, batch, move_architecture=False))  # a step of a warm-up
        ['explainer']
    """

    def __init__(
        self,
        supernet: Supernet,
        rates: Rates,
        seed: int,
        processes: World = SINGLE,
        base: Base | None = None,
    ) -> None:
        self.supernet, self.rates, self.processes = supernet, rates, processes
        self.base, self.done = base or Base(), 0.0
        self.base.check(supernet.family)
        self.generator = torch.Generator().manual_seed(seed)
        reference = next(supernet.parameters())
        self.architecture = {
            name: tensor.to(reference).requires_grad_()
            for name, tensor in supernet.new_architecture(self.generator).items()
        }
        # On the CPU, so that looking at it never waits for a GPU.
        self.kept = {
            name: torch.ones(t.shape, dtype=torch.bool) for name, t in self.architecture.items()
        }
        self.learners = {"explainer": Learner(supernet, rates.lr, rates)}
        self.optimizer = torch.optim.Adam(
            self.architecture.values(),
            lr=rates.architecture_lr,
            betas=(0.5, 0.999),
            weight_decay=rates.architecture_weight_decay,
        )
        self.skipped, self._skipped_in_a_row = 0, 0
        self._compute: dict[bool, Compute] = {
            moves: partial(self._computed, moves=moves) for moves in (False, True)
        }

    @abstractmethod
    def declare(self, train_batch: Batch, val_batch: Batch) -> Declaration:
        """The levels and the outer loss of one step."""

    @property
    def evaluated(self) -> nn.Module:
        """The supernet whose weights count."""
        return self.learners["explainer"].module

    def relaxed(self) -> Architecture:
        """Numbers whose softmax this step's supernet mixes with, by the architecture's graph."""
        return self._of_kept(self.base.relax(self.architecture, self.generator))

    def expected(self) -> dict[str, Tensor]:
        """Numbers whose softmax is what the architecture stands for now, without a graph."""
        numbers = self._of_kept(self.base.expected(self.architecture))
        return {name: t.detach() for name, t in numbers.items()}

    def _of_kept(self, numbers: Architecture) -> Architecture:
        everything = all(bool(mask.all()) for mask in self.kept.values())
        return numbers if everything else masked(numbers, self.kept)

    def variables(self) -> dict[str, Variable]:
        """What the architecture stands for and each learner's weights, by name, without a graph."""
        architecture: dict[str, Tensor] = self.expected()
        weights = {name: learner.weights for name, learner in self.learners.items()}
        return {"architecture": architecture, **weights}

    def step(
        self, train_batch: Batch, val_batch: Batch, *, move_architecture: bool = True
    ) -> dict[str, float]:
        """Move every learner's weights, and the architecture.

        A step whose gradients are not all finite is skipped and counted.

        Args:
            train_batch: normalised images (B, C, H, W) and labels (B,).
            val_batch: the same, of held-out images.
            move_architecture: False in a warm-up: the validation batch is not looked at.

        Returns:
            The loss of each level and, if the architecture was updated, of the outer level.

        Raises:
            SearchDivergedError: several steps in a row had to be skipped.
        """
        begun = self.begin_step(train_batch, val_batch, move_architecture=move_architecture)
        return self.finish_step(begun)

    def begin_step(
        self, train_batch: Batch, val_batch: Batch, *, move_architecture: bool = True
    ) -> BegunStep:
        """The first half of `step`: all that is computed, without waiting for a GPU.

        So several searches can begin a step each, on a stream of its own, before one is waited for.
        """
        relaxed = self.relaxed()
        at = [t.detach() for t in relaxed.values()]
        found = self._compute[move_architecture](*train_batch, *val_batch, *at)
        hypergradients, is_finite = found.hypergradients, found.finite
        if hypergradients and relaxed is not self.architecture:
            # What a base makes of the architecture may be steep where the hypergradient is not.
            hypergradients = [self._pulled_back(relaxed, each) for each in hypergradients]
            is_finite = is_finite & finite(t for each in hypergradients for t in leaves(each))
        # What decides and what is reported, in one transfer.
        numbers = torch.stack([is_finite.to(torch.float64), *found.losses.values()])
        return BegunStep(found=found, hypergradients=hypergradients, numbers=numbers)

    def finish_step(self, begun: BegunStep) -> dict[str, float]:
        """The second half of `step`: move the weights and the architecture, unless it is skipped.

        Raises:
            SearchDivergedError: several steps in a row had to be skipped.
        """
        is_finite, *losses = begun.numbers.tolist()
        if is_finite:
            self._skipped_in_a_row = 0
            joined = (
                self._with_penalty(self.join(begun.hypergradients)) if begun.hypergradients else {}
            )
            self._update(begun.found, joined)
        else:
            self._skip()
        return dict(zip(begun.found.losses, losses, strict=True))

    def autocast(self, dtype: torch.dtype) -> None:
        """Compute the networks of steps from now on in a lower precision, as torch's autocast does.

        Weights, gradients, optimizers and what explains (`LeaSE.explain`) stay what they are.
        """
        device = next(self.supernet.parameters()).device.type
        # Without its cache of weights, which would outlive what is recorded.
        cast = torch.autocast(device, dtype, cache_enabled=False)
        self._compute = {moves: cast(compute) for moves, compute in self._compute.items()}

    def record(self, recorder: Callable[[Compute], Compute]) -> None:
        """Compute steps from now on by what the recorder makes of their computation.

        Steps of a warm-up and others are recorded apart. What is recorded are losses, gradients and
        running statistics, of batches and architecture; optimizers, random numbers of controls and
        whatever a base does are outside.

        Args:
            recorder: makes of the computation one that does the same, faster: a CUDA graph, say.

        Raises:
            InputError: a network draws random numbers, which a step has to draw again for each of
                its passes.
        """
        if self.base.drops_out:
            raise InputError(
                "the base drops out skip connections at a rate that changes, which a recorded step "
                "cannot follow; leave out --cuda-graph, or pass another base"
            )
        for name, learner in self.learners.items():
            draws = [type(m).__name__ for m in learner.module.modules() if _draws(m)]
            if draws:
                raise InputError(
                    f"the {name} has a {draws[0]}, whose random numbers a recorded step cannot "
                    "draw again; leave out --cuda-graph, or pass another network"
                )
            learner.lr_on_device()
        self._compute = {moves: recorder(compute) for moves, compute in self._compute.items()}

    def _computed(
        self,
        train_x_BCHW: Tensor,
        train_y_B: Tensor,
        val_x_BCHW: Tensor,
        val_y_B: Tensor,
        *architecture: Tensor,
        moves: bool,
    ) -> Computed:
        """Losses, gradients and statistics of a step; nothing of the search is changed."""
        step = self.declare((train_x_BCHW, train_y_B), (val_x_BCHW, val_y_B))
        at: Variable = dict(zip(self.architecture, architecture, strict=True))
        weights = {name: learner.weights for name, learner in self.learners.items()}
        variables: dict[str, Variable] = {"architecture": at, **weights, **step.start}
        if not moves or step.mode is None:
            losses, gradients, _ = take_steps(step.levels, variables, self.processes)
        hypergradients = []
        if moves:
            levels, mode = ([], "inner_product") if step.mode is None else (step.levels, step.mode)
            outers = [one for one in (step.outer, step.audience_outer) if one is not None]
            unrolled = unroll_each(
                levels, outers, variables, "architecture", mode, processes=self.processes
            )
            hypergradients = [one.hypergradient for one in unrolled]
            if step.mode is not None:
                losses, gradients = dict(unrolled[0].losses), dict(unrolled[0].gradients)
            losses = losses | {"validation": torch.stack([one.outer for one in unrolled]).sum()}
        # Laid out as the weights in memory: else a GPU updates them one by one.
        gradients = {
            name: like(own, list(map(laid_out_as, leaves(own), leaves(gradients[name]))))
            for name, own in weights.items()
        }
        moving = [*gradients.values(), *hypergradients]
        return Computed(
            losses=losses,
            finite=finite(t for variable in moving for t in leaves(variable)),
            gradients=gradients,
            hypergradients=hypergradients,
            statistics=[
                pair for learner in self.learners.values() for pair in learner.take_statistics()
            ],
        )

    def join(self, hypergradients: Sequence[Variable]) -> Variable:
        """The direction of the architecture, from the hypergradient of each outer loss."""
        (only,) = hypergradients
        return only

    def _pulled_back(self, relaxed: Architecture, hypergradient: Variable) -> Variable:
        """The gradient towards the architecture, from that towards what `relaxed` made of it."""
        found = torch.autograd.grad(
            list(relaxed.values()),
            list(self.architecture.values()),
            leaves(hypergradient),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.architecture, found, strict=True))

    def _with_penalty(self, hypergradient: Variable) -> Variable:
        """Joined by the gradient of the base's penalty, so that no coupling takes it for a loss."""
        penalty = self.base.penalty(self.architecture, self.done)
        if penalty is None:
            return hypergradient
        found = torch.autograd.grad(penalty, list(self.architecture.values()), allow_unused=True)
        pairs = zip(leaves(hypergradient), found, strict=True)
        return like(hypergradient, [h if g is None else h + g for h, g in pairs])

    def _skip(self) -> None:
        """Count a step whose gradients, means over the processes, are not all finite."""
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_STEPS:
            raise SearchDivergedError(
                f"the gradients of {MAX_SKIPPED_STEPS} steps in a row were not finite, so the "
                f"search stops; pass smaller learning rates (now {self.rates.lr:g} for the "
                f"weights, {self.rates.architecture_lr:g} for the architecture)"
            )

    def _update(self, found: Computed, hypergradient: Variable) -> None:
        keep_statistics(found.statistics, self.processes)
        if isinstance(hypergradient, dict) and hypergradient:
            for name, tensor in self.architecture.items():
                tensor.grad = hypergradient[name]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        for name, learner in self.learners.items():
            gradient = found.gradients[name]
            if isinstance(gradient, dict):
                learner.update(gradient)

    def end_epoch(self, held_out: Iterable[Batch]) -> None:
        """Look at held-out batches after an epoch, if the method does; here it does not."""
        del held_out

    def set_progress(self, done: float) -> None:
        """Set learning rates and operations for a share `done` in [0, 1] of the search."""
        self.done = done
        _, within = self.base.stage(done)
        for learner in self.learners.values():
            learner.set_lr((1 + math.cos(math.pi * within)) / 2)
            set_skip_dropout(learner.module, self.base.skip_dropout(done))
        for name, kept in self.kept.items():
            if kept.dim() == 2:
                most = self.base.most_operations(kept.shape[1], done)
                self.kept[name] = best_kept(self.architecture[name].cpu(), kept, most)

    def set_tuning(self, done: float) -> None:
        """Set learning rates for a share `done` in [0, 1] of the tuning after a search.

        They begin at a tenth of the search's, without its momentum, as in the published code of
        DARTS-PT (selection.py).
        """
        self.done = 1.0
        for learner in self.learners.values():
            if done == 0:
                learner.forget_momentum()
            learner.set_lr((1 + math.cos(math.pi * done)) / 2, start=0.1)

    @property
    def rests(self) -> bool:
        """Whether the base wants the architecture to rest now."""
        return self.base.rests(self.done)

    def genotype(self) -> Genotype:
        """The discrete cells that the architecture stands for now."""
        return self.base.genotype(self.supernet, self.expected())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings."""
        whole = all(bool(mask.all()) for mask in self.kept.values())
        return {
            **({} if whole else {"kept": {name: mask.clone() for name, mask in self.kept.items()}}),
            "architecture": {name: t.detach().clone() for name, t in self.architecture.items()},
            "optimiser": copy.deepcopy(self.optimizer.state_dict()),
            "learners": {name: learner.state() for name, learner in self.learners.items()},
            "generator": self.generator.get_state(),
            "skipped": [self.skipped, self._skipped_in_a_row],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        with torch.no_grad():
            for name, tensor in self.architecture.items():
                tensor.copy_(state["architecture"][name])
        if "kept" in state:
            self.kept = {name: state["kept"][name].cpu() for name in self.kept}
        self.optimizer.load_state_dict(state["optimiser"])
        for name, learner in self.learners.items():
            learner.restore(state["learners"][name])
        self.generator.set_state(state["generator"])
        self.skipped, self._skipped_in_a_row = state["skipped"]
