"""The parts of LeaSE's gradient, and the worth of operations by the table."""

import itertools

import pytest
import torch
from studies.gradient_parts import described, parts_of, worth_of_operations
from tests.helpers.lease_nets import audience, batch, supernet

from selfexplain.errors import InputError
from selfexplain.hypergradients import unroll
from selfexplain.lease import LeaSE
from selfexplain.spaces import FAMILIES
from selfexplain.spaces.table import BenchmarkTable, MeasuredCell

OPERATIONS = FAMILIES["nasbench201"].operations


def table(cells: list[tuple[str, ...]]) -> BenchmarkTable:
    """Accuracy: 10 for each 3x3 convolution, and 5 more for a skip from the input to the output."""

    def arch(o: tuple[str, ...]) -> str:
        return f"|{o[0]}~0|+|{o[1]}~0|{o[2]}~1|+|{o[3]}~0|{o[4]}~1|{o[5]}~2|"

    return BenchmarkTable(
        MeasuredCell(
            arch=arch(o),
            seeds=1,
            validation=0.0,
            test=10.0 * o.count("nor_conv_3x3") + 5.0 * (o[3] == "skip_connect"),
            seed_std=None,
            params_m=1.0,
            flops_m=1.0,
        )
        for o in cells
    )


def test_the_worth_of_an_operation_is_what_it_adds_on_an_edge() -> None:
    worth_EO = worth_of_operations(table(list(itertools.product(OPERATIONS, repeat=6))))
    conv, skip = OPERATIONS.index("nor_conv_3x3"), OPERATIONS.index("skip_connect")
    expected = torch.full((6, 5), -2.0, dtype=torch.float64)
    expected[:, conv] = 8.0
    expected[3] -= 1.0
    expected[3, skip] += 5.0
    torch.testing.assert_close(worth_EO, expected)
    with pytest.raises(InputError, match="lacks an operation on an edge"):
        worth_of_operations(table([("none",) * 6]))


def test_the_parts_are_those_of_the_search_and_leave_it_as_it_was() -> None:
    search = LeaSE(supernet(), audience())
    before = [t.clone() for t in search.learners["explainer"].module.state_dict().values()]
    found = parts_of(search, batch(2), batch(3))
    step = search.declare(batch(2), batch(3))
    variables = search.variables() | step.start
    whole = unroll(step.levels, step.outer, variables, "architecture", "inner_product")
    assert isinstance(whole.hypergradient, dict)
    expected = whole.hypergradient["cell"].flatten()
    torch.testing.assert_close(found["direct"] + found["audience"], expected)
    assert not torch.allclose(found["audience"], found["shuffled"])
    after = search.learners["explainer"].module.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert search.options.control == "none"


def test_a_gradient_that_asks_for_what_is_worth_most_correlates_fully() -> None:
    worth_EO = torch.tensor([[-1.0, 0.25, 0.75], [-3.0, 1.0, 2.0]], dtype=torch.float64)
    noise_NA = 1e-3 * torch.randn(8, 6, dtype=torch.float64)
    direct_NA = -worth_EO.flatten() + noise_NA - noise_NA.mean(0)
    parts = described({"direct": direct_NA, "audience": -2 * direct_NA}, worth_EO)
    assert parts["direct"]["rank_correlation"] == pytest.approx(1.0)
    assert parts["audience"]["rank_correlation"] == pytest.approx(-1.0)
    assert parts["audience"]["cosine_to_direct"] == pytest.approx(-1.0)
    assert parts["direct"]["signal_to_noise"] > 100
