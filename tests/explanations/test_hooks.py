"""What a hook calls in a forward, where a checkpointed part runs again, and within another pass."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfexplain.explanations.hooks import ForwardHook, each_tensor, forward_hooks, function_hook


class Part(nn.Module):
    """A linear map and what keeps a tensor of it; run again by a backward pass if checkpointed."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.inner(x).sum()
        return checkpoint(self.inner, x, use_reentrant=self.reentrant).sum()


def hooks_that_note(calls: list[str], at: str = "output") -> list[ForwardHook]:
    """A hook on the linear map that appends to `calls` whether it is the forward or runs again."""

    def note(word: str):
        return lambda *_: calls.append(word)

    return [ForwardHook(("inner.0", at), note("forward"), recomputed=note("again"))]


def images() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("at", ["input", "output"])
@pytest.mark.parametrize(
    ("reentrant", "wanted"),
    [(None, ["forward"]), (False, ["forward", "again"]), (True, ["forward", "again"])],
)
def test_what_runs_again_in_a_backward_pass_is_no_forward(reentrant, wanted, at):
    model, calls = Part(reentrant), []
    with forward_hooks(model, hooks_that_note(calls, at)):
        model(images()).backward()
    assert calls == wanted


def test_a_recomputation_without_a_hook_of_its_own_is_left_alone():
    """A hook that reads needs none: the gradient is that of the model without hooks."""
    gradients, outputs = [], []
    for hooked in (False, True):
        torch.manual_seed(0)
        model, x = Part(False), images()
        keep = ForwardHook(("inner.0", "output"), lambda *given: outputs.append(given[2]))
        with forward_hooks(model, [keep] if hooked else []):
            model(x).backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert len(outputs) == 1


def test_a_recomputation_does_what_its_hook_returns():
    """A forward that is hooked with one more operation needs it again, or torch misses it."""

    def double(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output.sin() * 2

    gradients = []
    for reentrant in (None, False, True):
        torch.manual_seed(0)
        model, x = Part(reentrant), images()
        with forward_hooks(model, [ForwardHook(("inner.0", "output"), double, recomputed=double)]):
            model(x).backward()
        gradients.append(x.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_step_that_runs_whole_within_a_backward_pass_is_a_forward_of_its_own(reentrant):
    """As where a user checkpoints what hooks and runs the model: both times it is a forward."""
    model, calls = Part(None), []

    def step(x: Tensor) -> Tensor:
        with forward_hooks(model, hooks_that_note(calls)):
            return model(x)

    checkpoint(step, images(), use_reentrant=reentrant).backward()
    assert calls == ["forward", "forward"]


def test_another_backward_pass_than_when_hooked_runs_again():
    """Hooked within one backward pass, a checkpointed part runs again in one inside of it."""
    model, calls = Part(False), []

    def step(x: Tensor) -> Tensor:
        with torch.enable_grad(), forward_hooks(model, hooks_that_note(calls)):
            inner = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(model(inner), inner)
        return (x * gradient).sum()

    checkpoint(step, images(), use_reentrant=True).backward()
    assert calls == ["forward", "again"] * 2


def test_a_pass_that_began_after_the_block_was_entered_runs_again_in_each():
    """One graph, two backward passes: neither is a forward."""
    model, calls = Part(False), []
    with forward_hooks(model, hooks_that_note(calls)):
        loss = model(images())
        loss.backward(retain_graph=True)
        loss.backward()
    assert calls == ["forward", "again", "again"]


def test_hooks_of_a_block_are_gone_after_an_error_and_compiled_code_is_back():
    model = Part(None)
    model.compile(backend="eager")
    compiled = model._compiled_call_impl
    assert compiled is not None
    found = []

    def fail() -> None:
        with forward_hooks(model, hooks_that_note([])):
            found.append(model._compiled_call_impl)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert found == [None]
    assert model._compiled_call_impl is compiled
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_function_hook_sees_what_a_recomputation_calls_within_its_block():
    """Functions carry no place: whoever keeps what they are given closes the block before."""
    model, x = Part(False), images()
    counts: list[int] = []
    with function_hook(each_tensor(lambda tensor: counts.append(tensor.numel()))):
        loss = model(x)
    seen = len(counts)
    loss.backward()
    assert seen > 0
    assert len(counts) == seen
