"""Recorded steps of a search: a replay without Python computes what the step as written does."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from selfexplain.errors import InputError
from selfexplain.hypergradients.hypergradient import unroll_backward
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE, LeaSEOptions, RandomSearch
from selfexplain.models import build_model
from selfexplain.spaces import build_supernet

Call = tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: operations on fixed memory, done again without Python.

    An operation's results are written where they were when it was recorded; views are where they
    are. An operation that gives Python a number is refused, as in a capture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the step asks for a number")
        out = func(*args, **kwargs)
        made = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if is_tensor(t)]
        self.calls.append((func, args, kwargs, made))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.calls:
                if func.is_view:
                    continue
                out = func(*args, **kwargs)
                new = [
                    t for t in (out if isinstance(out, (tuple, list)) else [out]) if is_tensor(t)
                ]
                for old, value in zip(made, new, strict=True):
                    # Zeros that dual numbers stand on without memory stay what they are.
                    if old is not value and old.numel() and not old._is_zerotensor():
                        old.copy_(value)


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


class Recorded:
    """As `RecordedStep`: the third call is recorded on copies of the batch, later ones replayed."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step, self.calls, self.replays = step, 0, 0
        self.tape = Tape()

    def __call__(self, *batch: Tensor) -> Any:
        self.calls += 1
        if self.calls < 3:
            return self.step(*batch)
        if self.calls == 3:
            self.batch = [t.clone() for t in batch]
            with self.tape:
                self.out = self.step(*self.batch)
        for kept, new in zip(self.batch, batch, strict=True):
            kept.copy_(new)
        self.tape.replay()
        self.replays += 1
        return self.out


def supernet() -> Any:
    torch.manual_seed(0)
    return build_supernet(
        "tiny201", num_classes=3, in_channels=1, image_size=8, channels=4, cells=1
    )


def lease(**options: Any) -> LeaSE:
    network = supernet()
    audience = build_model("small_cnn", num_classes=3, in_channels=1)
    return LeaSE(network, audience, options=LeaSEOptions(**options))


SEARCHES: dict[str, Callable[[], ArchitectureSearch]] = {
    "darts1": lambda: DARTS(supernet(), order=1),
    "darts2": lambda: DARTS(supernet()),
    "darts2, one-sided": lambda: DARTS(supernet(), mode="one_sided"),
    "darts2, inner products": lambda: DARTS(supernet(), mode="inner_product"),
    "sanas": lambda: SANAS(supernet()),
    "lease": lease,
    "lease, differences": lambda: lease(mode="finite_difference"),
    "lease, dual numbers": lambda: lease(mode="forward_over_reverse"),
    "lease, exact": lambda: lease(mode="exact"),
    "lease, normalised": lambda: lease(coupling="normalised"),
    "lease, saliency": lambda: lease(control="saliency"),
    "lease, soft mask": lambda: lease(
        shown="soft_mask", audience_inverse="neumann", neumann_terms=3
    ),
    "lease, cam": lambda: lease(shown="soft_mask", explanation="cam"),
    "lease, squared gradients": lambda: lease(
        shown="soft_mask", explanation="squared_gradients", mode="finite_difference"
    ),
    "random_search": lambda: RandomSearch(supernet(), candidates=2),
}


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 1, 8, 8, generator=generator)
    return x, torch.randint(0, 3, (6,), generator=generator)


def state(search: ArchitectureSearch) -> dict[str, Tensor]:
    found = {f"architecture {name}": t.detach() for name, t in search.architecture.items()}
    for name, learner in search.learners.items():
        found |= {f"{name} {n}": t for n, t in learner.module.state_dict().items()}
    if isinstance(search, LeaSE):
        found |= {f"explained {n}": t for n, t in search.explained_statistics.items()}
    return found


@pytest.mark.parametrize("name", SEARCHES)
def test_a_replay_computes_what_is_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written, recorded = SEARCHES[name](), SEARCHES[name]()
    # Elsewhere than on a CPU lengths stay where they are.
    module = sys.modules[unroll_backward.__module__]  # the package has a function of its name
    monkeypatch.setattr(module, "known_length", Tensor.sqrt)
    recorders: list[Recorded] = []

    def recorder(step: Callable[..., Any]) -> Recorded:
        recorders.append(Recorded(step))
        return recorders[-1]

    recorded.record(recorder)
    for step in range(9):
        for search in (written, recorded):
            search.set_progress(step / 9)  # other learning rates, which a recording has to see
        moves = step >= 4
        losses = [
            search.step(batch(step), batch(100 + step), move_architecture=moves)
            for search in (written, recorded)
        ]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert sum(each.replays for each in recorders) >= 5
    expected = state(written)
    for key, tensor in state(recorded).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-6, msg=key)
    start = state(SEARCHES[name]())
    assert sum(not torch.equal(start[key], tensor) for key, tensor in expected.items()) > 9


def test_dropout_is_refused_as_its_numbers_cannot_be_drawn_again() -> None:
    audience = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    search = LeaSE(supernet(), audience)
    with pytest.raises(InputError, match="the audience has a Dropout, whose random numbers"):
        search.record(Recorded)


def test_autocast_computes_in_lower_precision_and_leaves_the_weights_alone() -> None:
    one, other = SEARCHES["lease"](), SEARCHES["lease"]()
    other.autocast(torch.bfloat16)
    losses = [search.step(batch(0), batch(1)) for search in (one, other)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    for key, tensor in state(other).items():
        assert tensor.dtype == state(one)[key].dtype


class NothingFromTheCPU(TorchFunctionMode):
    """Where everything is on another device: no list is an index, and no images lie on the CPU.

    Either would be copied to a GPU in each step, which waits for it and which a capture refuses.
    Scalars that Python makes are part of the calls that use them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(each, list) for each in index), index
        out = func(*args, **(kwargs or {}))
        if is_tensor(out):
            assert out.device.type == "meta" or out.dim() == 0, (func, out.shape)
        return out


@pytest.mark.parametrize(
    ("method", "space"),
    [
        ("darts1", "darts"),
        ("darts1", "tiny201"),
        ("sanas", "tiny201"),
        ("lease", "tiny201"),
        ("lease, dual numbers", "tiny201"),
    ],
)
def test_nothing_that_a_step_computes_comes_from_the_cpu(method: str, space: str) -> None:
    cells = 3 if space == "darts" else 1
    network = build_supernet(
        space, num_classes=3, in_channels=1, image_size=8, channels=4, cells=cells
    ).to("meta")
    search: ArchitectureSearch
    if method.startswith("lease"):
        audience = build_model("small_cnn", num_classes=3, in_channels=1).to("meta")
        mode: Any = "forward_over_reverse" if "dual" in method else None
        search = LeaSE(network, audience, options=LeaSEOptions(mode=mode))
        search._checked = True  # asks for numbers, once, in the first step
    else:
        search = SANAS(network) if method == "sanas" else DARTS(network, order=1)
    for learner in search.learners.values():
        learner.lr_on_device()
    pair = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    relaxed = [t.detach() for t in search.relaxed().values()]
    with NothingFromTheCPU():
        for moves in (False, True):
            found = search._computed(*pair, *pair, *relaxed, moves=moves)
    assert found.finite.device.type == "meta"
