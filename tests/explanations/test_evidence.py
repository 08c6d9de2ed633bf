"""Where evidence lies, against loops over places."""

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.explanations.metrics.evidence import (
    evidence,
    evidence_overlap,
    is_faint,
    ring_area,
    ring_share,
)


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_overlap_is_the_sum_of_the_smaller_shares() -> None:
    a_BHW, b_BHW = maps(0, 5, 3, 4), maps(1, 5, 3, 4)
    for a, b, found in zip(a_BHW, b_BHW, evidence_overlap(a_BHW, b_BHW), strict=True):
        plus = [[max(0.0, v) for v in m.flatten().tolist()] for m in (a, b)]
        shares = [[v / sum(values) for v in values] for values in plus]
        assert float(found) == pytest.approx(sum(map(min, *shares)), abs=1e-6)


def test_overlap_knows_neither_scale_nor_order() -> None:
    a, b = maps(0, 4, 6, 6), maps(1, 4, 6, 6)
    torch.testing.assert_close(evidence_overlap(a, b), evidence_overlap(b, 100 * a))
    torch.testing.assert_close(evidence_overlap(a, 3 * a), torch.ones(4))
    total_variation = 0.5 * (evidence(a) - evidence(b)).abs().sum(dim=(1, 2))
    torch.testing.assert_close(evidence_overlap(a, b), 1 - total_variation)


def test_no_evidence_shares_nothing() -> None:
    a = maps(0, 2, 3, 3)
    assert evidence_overlap(a, -a.abs()).tolist() == [0, 0]
    assert evidence_overlap(a, torch.zeros_like(a)).tolist() == [0, 0]
    assert bool(ring_share(-a.abs()).isnan().all())


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="pass two tensors"):
        evidence_overlap(torch.ones(1, 2, 2), torch.ones(1, 3, 3))


@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 5), (16, 24)])
@pytest.mark.parametrize("ring", [1 / 8, 0.2])
def test_ring_share_counts_small_pieces_of_every_place(
    height: int, width: int, ring: float
) -> None:
    map_HW = maps(2, height, width)
    fine = 10  # pieces of a place: their middles lie in the ring or not
    total, outside = 0.0, 0.0
    for h in range(height * fine):
        for w in range(width * fine):
            value = max(0.0, map_HW[h // fine, w // fine].item())
            y, x = (h + 0.5) / (height * fine), (w + 0.5) / (width * fine)
            total += value
            outside += value * (min(y, 1 - y, x, 1 - x) < ring)
    assert float(ring_share(map_HW[None], ring)) == pytest.approx(outside / total, abs=0.03)


def test_even_evidence_lies_in_the_ring_by_its_area() -> None:
    for side in (3, 4, 7, 32):
        assert float(ring_share(torch.ones(1, side, side))) == pytest.approx(ring_area())


def test_evidence_is_faint_beside_the_strongest_of_its_image() -> None:
    maps_BRHW = maps(3, 6, 2, 4, 4)
    maps_BRHW[1, 0] = -maps_BRHW[1, 0].abs()
    maps_BRHW[2, 1] *= 0.01
    maps_BRHW[3] = 0
    for image_RHW, found_R in zip(maps_BRHW.tolist(), is_faint(maps_BRHW).tolist(), strict=True):
        values = [[v for row in one for v in row] for one in image_RHW]
        scale = max(abs(v) for one in values for v in one)
        assert found_R == [max(one) <= 0 or max(one) < 0.1 * scale for one in values]
