"""What an objective remembers besides its weights, as tensors that every saver takes.

A checkpoint holds tensors whose shape and type are the same from construction on, whatever the data
are: safetensors takes nothing else, and averages of models are made tensor by tensor. They are
extra state and no buffers, because an average of counts, or of the bytes of images, means nothing:
`AveragedModel` leaves them alone, and its copy keeps what there was when it was made.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.objectives.shared.base import EXTRA, Counts

ROOM = 4 * 2**20
"""Bytes that a memory has in a checkpoint unless told otherwise; a batch of CIFAR takes 1.6 MB."""
ALIGNED = 16
"""Bytes between whose multiples tensors begin; no type has more."""
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
"""Types that can be remembered; a checkpoint holds their places in this list."""
MOST_AXES = 6


def check_rows(state_dict: Mapping[str, Any], name: str, table: Tensor, what: str) -> None:
    """Raise InputError if a checkpoint remembers another number of images or classes.

    Args:
        state_dict: that is loaded.
        name: of the table in it.
        table: that it is loaded into.
        what: its sizes count, as the arguments of the objective are named.

    Example:
        >>> check_rows({"past_N": torch.ones(4)}, "past_N", torch.ones(5), "num_images")
        Traceback (most recent call last):
        selfexplain.errors.InputError: the checkpoint was made with num_images=4, and this ...
    """
    saved = state_dict.get(name)
    if isinstance(saved, Tensor) and saved.shape != table.shape:
        names = what.split()
        made, here = (
            " and ".join(f"{n}={size}" for n, size in zip(names, t.shape, strict=False))
            for t in (saved, table)
        )
        raise InputError(
            f"the checkpoint was made with {made}, and this objective with {here}; build it with "
            "those of the checkpoint, or load the model's weights alone"
        )


class TensorMemory(nn.Module):
    """Named tensors that are remembered from one step to the next; the data decide their shapes.

    They lie one behind the other in bytes whose number is fixed, and what each is stands in a table
    of constant shape; both are in `state_dict()`. What does not fit is remembered all the same,
    beside the checkpoint, and a training that is continued from it begins without a memory, as the
    first step of a training does; a warning says so.

    Args:
        *names: of the tensors.
        room: bytes in a checkpoint; None for 4 MiB.

    Raises:
        InputError: the room is negative.

    Example:
        >>> memory = TensorMemory("image_BCHW", "y_B", room=1000)
        >>> memory.empty
        True
        >>> memory.keep(image_BCHW=torch.ones(2, 1, 4, 4), y_B=torch.tensor([0, 1]))
        >>> other = TensorMemory("image_BCHW", "y_B", room=1000)
        >>> _ = other.load_state_dict(memory.state_dict())
        >>> other["y_B"]
        tensor([0, 1])
    """

    def __init__(self, *names: str, room: int | None = None) -> None:
        super().__init__()
        room = ROOM if room is None else room
        if room < 0:
            raise InputError(f"room is {room}; pass a number of bytes, 0 for none in checkpoints")
        self.names = names
        self.table = _Table(len(names))
        # A byte at least: savers take all tensors without any for one and the same.
        self._bytes_N = torch.zeros(max(room, 1), dtype=torch.uint8)
        self._beside: dict[str, Tensor] = {}
        """The tensors, where they do not fit."""
        self._warned = False

    @property
    def empty(self) -> bool:
        """Whether nothing has been kept yet."""
        return not self._beside and not bool(self.table.rows_NR.any())

    def view(self, name: str) -> Tensor:
        """The tensor of that name itself, which what is kept later overwrites.

        Raises:
            InputError: nothing has been kept.
        """
        if self.empty:
            raise InputError("nothing has been stored yet; store tensors first")
        return self._beside[name] if self._beside else self._views()[name]

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name: a copy, which what is kept later does not change."""
        return self.view(name).clone()

    @torch.no_grad()
    def keep(self, **tensors: Tensor) -> None:
        """Copy the values of these tensors, which are all of the memory's.

        They are written into the same memory each time, as a recorded step (training/steps.py)
        does, unless they have another shape or type than those before.
        """
        tensors = {name: tensors[name] for name in self.names}
        if not self._has_room_for(tensors.values()):
            self._keep_beside(tensors)
            return
        self._beside = {}
        if self._bytes_N.is_inference() and not torch.is_inference_mode_enabled():
            self._bytes_N = self._bytes_N.clone()  # which can be written into outside it, too
        self.table.write(tensors.values())
        for name, view in self._views().items():
            view.copy_(tensors[name])

    def clear(self) -> None:
        """Forget everything."""
        self._beside = {}
        self.table.rows_NR.zero_()

    def get_extra_state(self) -> Tensor:
        """The bytes (uint8) that the tensors lie in, whose number never changes."""
        return self._bytes_N

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned, also where there was more room or less."""
        self._beside = {}
        common = min(len(state), len(self._bytes_N))
        self._bytes_N[:common].copy_(state[:common])

    def _has_room_for(self, tensors: Iterable[Tensor]) -> bool:
        tensors = list(tensors)
        known = all(t.dtype in DTYPES and t.ndim <= MOST_AXES for t in tensors)
        return known and bytes_of(tensors) <= len(self._bytes_N)

    def _keep_beside(self, tensors: dict[str, Tensor]) -> None:
        """Keep what does not fit, in memory of its own."""
        self.table.rows_NR.zero_()
        for name, tensor in tensors.items():
            old = self._beside.get(name)
            alike = old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype
            if old is not None and alike and not old.is_inference():
                old.copy_(tensor)
            else:
                self._beside[name] = tensor.detach().clone()
        if not self._warned:
            self._warned = True
            needed, room = bytes_of(tensors.values()), len(self._bytes_N)
            warnings.warn(
                f"the state of this objective takes {needed} bytes and has room for {room} in a "
                "checkpoint, so a training that is continued from one begins without it; pass "
                f"memory_bytes={needed} to the objective",
                stacklevel=2,
            )

    def _views(self) -> dict[str, Tensor]:
        """The tensors by name, as parts of the bytes."""
        views, start = {}, 0
        for name, (shape, dtype) in zip(self.names, self.table.read(), strict=True):
            size = math.prod(shape) * dtype.itemsize
            views[name] = self._bytes_N[start : start + size].view(dtype).view(shape)
            start += _padded(size)
        return views

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model; bytes have no precision to be cast to."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bytes_N = fn(self._bytes_N)
        self._beside = {name: fn(tensor) for name, tensor in self._beside.items()}
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; version 0.1.0 saved each tensor under its name, and an empty one for none."""
        if all(prefix + name in state_dict for name in self.names):
            old = {name: state_dict.pop(prefix + name) for name in self.names}
            if any(tensor.numel() for tensor in old.values()):
                self.keep(**old)
            else:
                self.clear()
            state_dict[prefix + EXTRA] = self._bytes_N
            state_dict[f"{prefix}table.{EXTRA}"] = self.table.rows_NR
        rows_NR = state_dict.get(f"{prefix}table.{EXTRA}")
        needed = 0 if rows_NR is None else _bytes_of_rows(rows_NR)
        if needed > len(self._bytes_N):
            raise InputError(
                f"the checkpoint has {needed} bytes of state, and the objective has room for "
                f"{len(self._bytes_N)}; pass memory_bytes={needed} to the objective"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Table(nn.Module):
    """Type and shape of each of some tensors: rows of [known, type, axes, sizes], on the CPU."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.rows_NR = torch.zeros(tensors, 3 + MOST_AXES, dtype=torch.int64, device="cpu")

    def write(self, tensors: Iterable[Tensor]) -> None:
        """Record type and shape of these tensors."""
        rows = [
            [1, DTYPES.index(t.dtype), t.ndim, *t.shape, *[0] * (MOST_AXES - t.ndim)]
            for t in tensors
        ]
        self.rows_NR.copy_(torch.tensor(rows, dtype=torch.int64, device="cpu"))

    def read(self) -> list[tuple[list[int], torch.dtype]]:
        """Shape and type of each."""
        return _read(self.rows_NR)

    def get_extra_state(self) -> Tensor:
        """The rows."""
        return self.rows_NR

    def set_extra_state(self, state: Tensor) -> None:
        """Take the rows."""
        self.rows_NR.copy_(state)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that a memory needs for tensors.

    Example:
        >>> bytes_of([torch.zeros(3), torch.zeros(2, dtype=torch.bool)])
        32
    """
    return sum(_padded(t.numel() * t.element_size()) for t in tensors)


def _read(rows_NR: Tensor) -> list[tuple[list[int], torch.dtype]]:
    """Shapes and types of the rows of a table."""
    return [(sizes[:axes], DTYPES[kind]) for _, kind, axes, *sizes in rows_NR.tolist()]


def _bytes_of_rows(rows_NR: Tensor) -> int:
    if not rows_NR.any():
        return 0
    return sum(_padded(math.prod(shape) * dtype.itemsize) for shape, dtype in _read(rows_NR))


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


# Objectives that look back at the epoch before must be told where one begins.


class Epochs(nn.Module):
    """Which epoch of how many is running; in checkpoints, so that one made within an epoch goes on.

    Example:
        >>> epochs = Epochs()
        >>> epochs.begun
        False
        >>> epochs.begin(1, 4)
        True
        >>> epochs.done(), epochs.begun
        ((2, 4), True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts(epoch=0, epochs=0)
        self._continued = False
        """Whether a checkpoint was loaded since an epoch was begun."""

    @property
    def begun(self) -> bool:
        """Whether any epoch was."""
        return self.counts["epochs"] > 0

    def begin(self, epoch: int, epochs: int) -> bool:
        """Record an epoch, counted from 0; return whether it is new.

        It is not if a checkpoint was made within it: some loops announce the epoch again.
        """
        again = self._continued and self.begun and self.counts["epoch"] == epoch
        self.counts["epoch"], self.counts["epochs"] = epoch, epochs
        self._continued = False
        return not again

    def done(self) -> tuple[int, int]:
        """How many epochs will be done when this one is, and how many there are."""
        return self.counts["epoch"] + 1, self.counts["epochs"]

    def check_begun(self) -> None:
        """Raise InputError if a step of training comes before the first `begin_epoch`.

        Without it the objective would silently be another one, since it never looks back.
        """
        if not self.begun:
            raise InputError(
                "this objective learns from the previous epoch; call objective.begin_epoch(epoch, "
                "epochs) before each epoch, with epochs counted from 0"
            )

    def get_extra_state(self) -> Tensor:
        """Epoch and number of epochs, (2,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        self.counts.load(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; checkpoints of version 0.1.0 do not say which epoch they are of."""
        told = prefix + EXTRA in state_dict
        state_dict.setdefault(prefix + EXTRA, self.counts.tensor_N)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._continued = told


class RisingShare:
    """For objectives whose share of what is remembered rises with the epochs, as in PS-KD.

    Example:
        >>> rising = RisingShare()
        >>> rising.alpha, rising.epochs = 0.8, Epochs()
        >>> rising.begin_epoch(0, epochs=4)
        >>> rising.share
        0.2
    """

    alpha: float
    """The share in the last epoch."""
    epochs: Epochs

    @property
    def share(self) -> float:
        """alpha_t of the current epoch; 0 before the first."""
        done, epochs = self.epochs.done()
        return self.alpha * done / epochs if epochs else 0.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Raise the share to alpha (epoch + 1) / epochs."""
        self.epochs.begin(epoch, epochs)

    def skip_warmup(self) -> None:
        """Behave as in the last epoch."""
        self.epochs.begin(0, 1)  # which is the last
