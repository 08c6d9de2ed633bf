"""The contract that every objective keeps, and pure functions that losses share.

Shape suffixes: B batch, C channels, H and W space, K classes, J = K - 1 classes that are not true.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.layout import check_output
from selfexplain.models.pointwise import warn_of_strided_pointwise

# Where the good values of an option may lie: what a search over options draws from.


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high; evenly on a logarithmic scale if `log`.

    Raises:
        InputError: the range is empty, or `log` and it reaches down to 0.

    Example:
        >>> Range(0.01, 1.0, log=True).high
        1.0
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that nothing can be drawn from."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise InputError(
                f"the range from {self.low:g} to {self.high:g} holds nothing to draw; "
                "pass low < high, and low > 0 with log"
            )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values.

    Example:
        >>> Choice("zipf", "softmax").values
        ('zipf', 'softmax')
    """

    values: tuple[str | int | float | bool, ...]

    def __init__(self, *values: str | int | float | bool) -> None:
        object.__setattr__(self, "values", values)


Tunable = Range | Choice


# What an objective may need to know about a run besides its model and its options.


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveContext:
    """The run that an objective is built for.

    Example:
        >>> from selfexplain.models import build_model
        >>> context = ObjectiveContext(
        ...     num_classes=5,
        ...     image_shape=(1, 8, 8),
        ...     num_images=100,
        ...     make_model=lambda: build_model("small_cnn", num_classes=5, in_channels=1),
        ... )
        >>> context.teacher is None
        True
    """

    num_classes: int
    """K."""
    image_shape: tuple[int, int, int]
    """(C, H, W) of a training image."""
    num_images: int
    """Images in the training set; indices that an objective is given lie below it."""
    make_model: Callable[[], nn.Module]
    """Another untrained model of the kind that is trained; draws its weights from the global
    generator."""
    batch_size: int | None = None
    """Images in a step, over all processes together; None if that is not known."""
    teacher: nn.Module | None = None
    """A trained model with the same classes, for an objective that asks for one."""


# What a checkpoint holds of an objective besides weights; memory.py says why it is no buffer.


EXTRA = "_extra_state"
"""How torch ends the name of what `get_extra_state` returns."""


class Counts:
    """Whole numbers by name, kept in one int64 tensor on the CPU, which a checkpoint holds.

    On the CPU wherever the model is, so that to read one never waits for a device.

    Args:
        **start: each number's value, from 0 to 2**63 - 1.

    Example:
        >>> counts = Counts(seed=7, steps=0)
        >>> counts["steps"] += 1
        >>> counts.tensor_N
        tensor([7, 1])
        >>> counts.load({"seed": 8, "steps": 3})
        >>> counts["seed"], counts["steps"]
        (8, 3)
    """

    def __init__(self, **start: int) -> None:
        self.names = tuple(start)
        self.tensor_N = torch.zeros(len(start), dtype=torch.int64, device="cpu")
        for name, value in start.items():
            self[name] = value

    def __getitem__(self, name: str) -> int:
        """The number of that name."""
        return int(self.tensor_N[self.names.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        """Set the number of that name, where the others are."""
        self.tensor_N[self.names.index(name)] = value

    def load(self, state: Tensor | Mapping[str, int]) -> None:
        """Take the numbers of a checkpoint: a tensor (N,), or by name as version 0.1.0 wrote them.

        Raises:
            InputError: it holds other numbers.
        """
        if isinstance(state, Tensor):
            if state.shape != self.tensor_N.shape or state.is_floating_point():
                raise InputError(
                    f"the checkpoint holds {state.dtype} of shape {tuple(state.shape)} in place of "
                    f"{' and '.join(self.names)}; pass one of the same objective"
                )
            self.tensor_N.copy_(state)
        else:
            for name in self.names:
                self[name] = state[name]


class KeepsPrecision(nn.Module):
    """A module whose own buffers move with the model but are never cast to a narrower type.

    In bfloat16 a count ends at 256, and a mean of many batches moves no more.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if new.is_floating_point() and new.element_size() < old.element_size():
                setattr(self, name, old.to(new.device))
        return self


# The contract.


class Objective(KeepsPrecision):
    """What a training step minimises: `objective(x, y)["loss"].backward()`.

    An objective owns its model (`objective.model`) and whatever else it learns or remembers, so
    that its `parameters()` are what the optimizer needs and its `state_dict()` is what a checkpoint
    needs. Subclasses implement `forward`.

    Args:
        model: maps images (B, C, H, W) to logits (B, K).

    Example:
        >>> import torch
        >>> from selfexplain.objectives import Standard
        >>> objective = Standard(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> out = objective(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]))
        >>> sorted(out), out["output"].shape
        (['loss', 'output'], torch.Size([2, 3]))
    """

    period = 1
    """Steps after which the work of a step repeats; above 1 if only some steps do extra work."""
    takes_soft_labels = False
    """Whether labels may be distributions (B, K), as mixed images have them."""
    wants_indices = False
    """Whether each call needs the images' places in the training set: objective(x, y, index_B)."""
    second_derivatives = False
    """Whether the loss holds gradients of the model, so that its backward pass differentiates
    twice."""
    capturable = False
    """Whether all steps of an epoch are the same work on the device, so that one may be recorded
    and replayed without this code: nothing is drawn, counted or decided in Python."""
    tunable: ClassVar[Mapping[str, Tunable]] = {}
    """The options that a fair comparison tunes, by name, and where their good values may lie."""

    _looked_at = False
    """Whether the model's layers have been looked at, see `__call__`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def replace_model(self, model: nn.Module) -> None:
        """Train another model from now on, such as the head alone; what it remembers stays."""
        self.model = model

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective from options alone; what else it needs is taken from the context."""
        del context
        return cls(model, **options)

    @classmethod
    def teacher_spec(cls, options: Mapping[str, Any]) -> str | None:
        """Spec of the objective that trains the teacher, for one that needs a trained teacher."""
        del options
        return None

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Take note that epoch number `epoch` of `epochs`, counted from 0, begins.

        Objectives whose work changes with the epochs, or that remember something from one to the
        next, override it; every training loop calls it on all processes.
        """

    def skip_warmup(self) -> None:
        """Behave from now on as after the warm-up; nothing to do for an objective without one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `forward`, as every module does; once, look for layers that a CPU cannot train."""
        out = super().__call__(*args, **kwargs)
        # after the forward pass, which tells lazy layers their channels, and before any backward
        if not self._looked_at and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._looked_at = True
            learns = any(p.requires_grad for p in self.parameters())
            check_terms(out, type(self).__name__, learns=learns)
            warn_of_strided_pointwise(self.model)
        return out

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss and output of one batch.

        Args:
            x_BCHW: images, as the model wants them.
            y_B: class indices in [0, K); or distributions (B, K), if `takes_soft_labels`.

        Returns:
            "loss" (a scalar with a graph), "output" (logits (B, K)), and named scalar terms of the
            loss, detached, where the loss has several.
        """
        raise NotImplementedError


def check_terms(out: object, name: str, *, learns: bool = True) -> None:
    """Raise InputError unless a step returned what the contract says."""
    must = 'it must return a dictionary of "loss", a scalar with a graph, "output", logits (B, K), '
    must += "and further terms, detached scalars"
    if not isinstance(out, Mapping):
        raise InputError(f"objective {name} returned a {type(out).__name__}; {must}")
    for key in ("loss", "output"):
        if key not in out:
            raise InputError(f"objective {name} returned no {key!r}; {must}")
    for key, value in out.items():
        if not isinstance(value, Tensor):
            said = f"a {type(value).__name__} as {key!r}"
            raise InputError(f"objective {name} returned {said}; {must}")
    loss, output = out["loss"], out["output"]
    if loss.ndim or not loss.is_floating_point():
        said = f"a loss of shape {tuple(loss.shape)} and type {loss.dtype}"
        raise InputError(f"objective {name} returned {said}; {must}")
    if learns and not loss.requires_grad:
        raise InputError(f"objective {name} returned a detached loss; {must}")
    if output.ndim != 2:
        said = f"an output of shape {tuple(output.shape)}"
        raise InputError(f"objective {name} returned {said}; {must}")


def check_logits(output: object, y_B: Tensor, *, soft: bool = False) -> Tensor:
    """Return the model's output if it is logits (B, K) that fit the labels.

    Args:
        output: what the model returned.
        y_B: class indices, or with `soft` also distributions (B, K).
        soft: whether labels may be distributions.

    Raises:
        InputError: the output is not a floating-point tensor (B, K), the labels have another shape
            or type, or a label (where labels are on the CPU; elsewhere the check would stall the
            device) is outside [0, K).

    Example:
        >>> import torch
        >>> check_logits(torch.zeros(2, 3), torch.tensor([0, 2])).shape
        torch.Size([2, 3])
    """
    batch = y_B.shape[0]
    logits_BK = check_output(output, batch)
    if y_B.ndim != 1:
        if not soft:
            raise InputError(
                f"the labels have shape {tuple(y_B.shape)}, but this objective needs one class for "
                f"each image; pass labels of shape ({batch},), and images that are not mixed"
            )
        if y_B.shape != logits_BK.shape or not y_B.is_floating_point():
            raise InputError(
                f"the soft labels are {y_B.dtype} of shape {tuple(y_B.shape)} for logits of shape "
                f"{tuple(logits_BK.shape)}; pass one distribution over the classes for each image"
            )
        return logits_BK
    check_class_indices(y_B, logits_BK.shape[1])
    return logits_BK


def check_class_indices(y_B: Tensor, classes: int) -> None:
    """Raise InputError unless labels (B,) are int64 and below the number of classes.

    Of uint8, which cross_entropy takes too, indexing makes a mask. Values are looked at on the CPU
    alone: elsewhere that would stall the device.
    """
    if y_B.dtype != torch.int64:
        raise InputError(
            f"the labels are {y_B.dtype}; pass class indices as torch.int64, for example y.long()"
        )
    if y_B.device.type == "cpu" and y_B.numel():
        low, high = int(y_B.min()), int(y_B.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"label {low if low < 0 else high} is outside the model's {classes} classes; "
                f"pass labels from 0 to {classes - 1}"
            )


# An objective around another one.


class Wrapper(Objective):
    """Passes on to the objective inside whatever it needs to be told of the run.

    Subclasses implement `forward`, and call `self.objective` in it.

    Args:
        objective: the one inside; both have one model.

    Example:
        >>> from torch import nn
        >>> from selfexplain.objectives import Standard
        >>> inner = Standard(nn.Linear(2, 3))
        >>> outer = Wrapper(inner)
        >>> outer.model is inner.model, outer.period
        (True, 1)
    """

    def __init__(self, objective: Objective) -> None:
        nn.Module.__init__(self)  # Objective's would register the model, which has its name inside
        self.objective = objective
        self.period = objective.period

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The model of the objective inside; registered there alone, as savers want each once."""
        return self.objective.model

    def skip_warmup(self) -> None:
        """Take the objective inside past its warm-up."""
        self.objective.skip_warmup()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the objective inside that an epoch begins."""
        self.objective.begin_epoch(epoch, epochs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; version 0.1.0 saved the model twice, under `model` too, and some savers once."""
        for name in [name for name in state_dict if name.startswith(f"{prefix}model.")]:
            inside = f"{prefix}objective.{name.removeprefix(prefix)}"
            state_dict.setdefault(inside, state_dict.pop(name))
        super()._load_from_state_dict(state_dict, prefix, *args)


# Comparing predictions softened by a temperature (Hinton et al. 2015).


def softened_kl(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(z / T)) of each image, in nats, without a graph to t: (B,).

    The factor T^2 keeps the size of the gradient as T grows.

    Args:
        logits_BK: z, of the model that learns.
        teacher_BK: t, logits of the model that teaches.
        temperature: T > 0.

    Example:
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> softened_kl(z, z + 5.0, 4.0).abs().max() < 1e-6
        tensor(True)
    """
    dtype = torch.promote_types(logits_BK.dtype, torch.float32)  # half precision is too coarse
    log_p_BK = F.log_softmax(logits_BK.to(dtype) / temperature, dim=1)
    log_q_BK = F.log_softmax(teacher_BK.detach().to(dtype) / temperature, dim=1)
    kl_B = F.kl_div(log_p_BK, log_q_BK, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * kl_B


# What the non-true classes share among themselves, whatever the true class gets.


def true_mask(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """True at the true class, (B, K) bool.

    Example:
        >>> true_mask(torch.zeros(1, 3), torch.tensor([1]))
        tensor([[False,  True, False]])
    """
    return torch.arange(s_BK.shape[1], device=s_BK.device) == y_B.unsqueeze(1)


def non_target_loss(
    logits_BK: Tensor, q_BK: Tensor, y_B: Tensor, temperature: float = 1.0
) -> Tensor:
    """T^2 KL(q || p^(T) restricted to the non-true classes and renormalised): a scalar.

    It says how the non-true classes share what is left to them and leaves the true class's own
    confidence to the cross-entropy, which is why it does not spoil calibration as a mixed target
    does. (The same separation as non-target-class distillation, Zhao et al. 2022.)

    Args:
        logits_BK: the model's logits.
        q_BK: target with q_y = 0 and sum 1.
        y_B: true classes.
        temperature: T, softens the model's side only; q carries its own temperature.

    Example:
        >>> z = torch.tensor([[7.0, 0.0, 0.0]])
        >>> non_target_loss(z, torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([0])).item()
        0.0
    """
    # A finite filler keeps 0 * log p at the true class zero; -inf would make it NaN.
    filler = torch.finfo(logits_BK.dtype).min / 2
    z_BK = (logits_BK / temperature).masked_fill(true_mask(logits_BK, y_B), filler)
    return temperature**2 * F.kl_div(F.log_softmax(z_BK, dim=1), q_BK, reduction="batchmean")


def other_places(y_B: Tensor, classes: int) -> Tensor:
    """Indices of the classes that are not true, in cyclic order after the true one: (B, J)."""
    return (y_B.unsqueeze(1) + torch.arange(1, classes, device=y_B.device)) % classes


def non_target(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Values of the classes that are not true, in that order: (B, J).

    Example:
        >>> non_target(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
        tensor([[3., 1.]])
    """
    return z_BK.gather(1, other_places(y_B, z_BK.shape[1]))


def put_together(mass_B: Tensor, others_BJ: Tensor, y_B: Tensor) -> Tensor:
    """This mass on the true class, the rest by `others`, in the order of `non_target`: (B, K)."""
    classes = others_BJ.shape[1] + 1
    places_BK = torch.cat((y_B.unsqueeze(1), other_places(y_B, classes)), dim=1)
    mass_B1 = mass_B.unsqueeze(1)
    values_BK = torch.cat((mass_B1, (1 - mass_B1) * others_BJ), dim=1)
    return torch.empty_like(values_BK).scatter_(1, places_BK, values_BK)
