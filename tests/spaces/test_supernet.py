"""Supernets: shapes, gradients each alone, discretisation, and what cannot be built."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.spaces import Supernet, build_supernet

SPACES = ("nasbench201", "tiny201", "darts", "pcdarts")


def small(space: str, **options: Any) -> Supernet:
    torch.manual_seed(0)
    numbers = {"num_classes": 10, "in_channels": 1, "image_size": 8, "channels": 8}
    numbers["cells"] = 1 if space == "nasbench201" else 3
    return build_supernet(space, **{**numbers, **options})


@pytest.mark.parametrize("space", SPACES)
def test_digits_fit(space: str) -> None:
    supernet = small(space)
    logits = supernet(torch.randn(4, 1, 8, 8), supernet.new_architecture())
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("wrt", ["weights", "architecture", "x"])
def test_gradients_can_be_taken_alone(space: str, wrt: str) -> None:
    supernet = small(space)
    variables: dict[str, dict[str, Tensor]] = {
        "weights": {name: w.detach().clone() for name, w in supernet.named_parameters()},
        "architecture": supernet.new_architecture(),
        "x": {"x": torch.randn(4, 1, 8, 8)},
    }
    variables[wrt] = {name: v.requires_grad_() for name, v in variables[wrt].items()}
    buffers = {name: b.clone() for name, b in supernet.named_buffers()}
    before = {name: b.clone() for name, b in supernet.named_buffers()}
    logits = torch.func.functional_call(
        supernet,
        {**variables["weights"], **buffers},
        (variables["x"]["x"], variables["architecture"]),
    )
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    found = torch.autograd.grad(loss, list(variables[wrt].values()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found)
    for name, buffer in supernet.named_buffers():  # only those that were passed have moved
        assert buffer.equal(before[name])
        assert "running" not in name or not buffers[name].equal(before[name])


@pytest.mark.parametrize("space", SPACES)
def test_new_architecture_is_small_and_reproducible(space: str) -> None:
    supernet = small(space)
    first = supernet.new_architecture(torch.Generator().manual_seed(3))
    again = supernet.new_architecture(torch.Generator().manual_seed(3))
    for name, tensor in first.items():
        assert tensor.equal(again[name])
        assert tensor.dtype == torch.float32
        assert 0 < tensor.abs().max() < 1e-2


@pytest.mark.parametrize("space", SPACES)
def test_wrong_architecture_is_refused(space: str) -> None:
    supernet = small(space)
    with pytest.raises(InputError, match="new_architecture"):
        supernet(torch.zeros(2, 1, 8, 8), {"wrong": torch.zeros(2)})
    with pytest.raises(InputError, match=r"this supernet needs"):
        supernet.genotype({name: v[:1] for name, v in supernet.new_architecture().items()})


@pytest.mark.parametrize("space", SPACES)
def test_supernets_can_be_copied_pickled_and_autocast(space: str) -> None:
    supernet = small(space)
    x, architecture = torch.randn(4, 1, 8, 8), supernet.new_architecture()
    logits = supernet(x, architecture)
    for twin in (copy.deepcopy(supernet), pickle.loads(pickle.dumps(supernet))):
        torch.testing.assert_close(twin(x, architecture), logits)
    leaves = {name: numbers.requires_grad_() for name, numbers in architecture.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = supernet(x, leaves)
    assert low.dtype == torch.bfloat16
    found = torch.autograd.grad(low.float().square().sum(), [*leaves.values()])
    assert all(gradient.isfinite().all() for gradient in found)


def test_nasbench201_takes_the_heaviest_of_all_operations() -> None:
    supernet = small("nasbench201")
    numbers = torch.zeros(6, 5)
    for edge, o in enumerate((3, 0, 1, 4, 2, 0)):
        numbers[edge, o] = 1.0
    cell = supernet.genotype({"cell": numbers}).cells["cell"]
    names = [[tuple(edge) for edge in node] for node in cell.nodes]
    assert names == [
        [("nor_conv_3x3", 0)],
        [("none", 0), ("skip_connect", 1)],
        [("avg_pool_3x3", 0), ("nor_conv_1x1", 1), ("none", 2)],
    ]


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("nasbench-201", {}, "did you mean nasbench201"),
        ("nasbench201", {"cells": 0}, "cells is 0; pass a number of at least 1"),
        ("nasbench201", {"num_classes": 0}, "num_classes is 0"),
        ("nasbench201", {"image_size": 10}, "image_size is 10.*multiple of 4"),
        ("nasbench201", {"image_size": 2}, "image_size is 2.*multiple of 4"),
        ("dart", {}, "did you mean darts"),
        ("darts", {"cells": 2}, "cells is 2.*at least 3"),
        ("darts", {"channels": 5}, "channels is 5; for darts pass a multiple of 2"),
        ("pcdarts", {"channels": 12}, "channels is 12.*multiple of 8"),
        ("pcdarts", {"image_size": 6}, "image_size is 6.*halves its features 2 times"),
        ("darts", {"image_size": 16, "form": "imagenet"}, "image_size is 16.*halves .* 5 times"),
        ("nasbench201", {"form": "imagenet"}, "no imagenet form; pass form='small'"),
        ("darts", {"form": "large"}, "no form 'large'; pass small or imagenet"),
    ],
)
def test_what_cannot_be_built_says_what_to_pass(
    space: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small(space, **options)
