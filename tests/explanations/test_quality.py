"""Metrics of explanations against plain loops, captum and scipy; and without a trace."""

from itertools import pairwise

import captum.metrics
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.stats import spearmanr
from tests.explanations.test_state import assert_same, prepared, snapshot
from tests.helpers.explanations_nets import FunctionalNet, ViT, residual_net, warmed

from selfexplain.errors import InputError
from selfexplain.explanations import KINDS, class_maps, find_explained_layer
from selfexplain.explanations.metrics import (
    blur_baseline,
    cascade,
    cascade_correlations,
    deletion_auc,
    gaussian_noise,
    infidelity,
    insertion_auc,
    maps_of_classes,
    max_sensitivity,
    mean_baseline,
    pointing_hits,
    spearman,
    square_removal,
    upsampled,
)
from selfexplain.explanations.metrics.deletion import path_counts
from selfexplain.explanations.metrics.randomization import weight_stages

B, SIDE = 4, 12


@pytest.fixture
def net():
    torch.manual_seed(0)
    return warmed(residual_net())


@pytest.fixture
def case(net):
    """Images, maps with ties, classes."""
    torch.manual_seed(1)
    x = torch.randn(B, 3, SIDE, SIDE, dtype=torch.float64)
    maps = torch.randn(B, SIDE, SIDE, dtype=torch.float64).mul(3).round()
    return x, maps, torch.tensor([0, 4, 2, 2])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Deletion and insertion


def area_by_loop(net, start, end, relevance, k, steps):
    """One image, pixel by pixel, as the definition says."""
    pixels = [(i, j) for i in range(SIDE) for j in range(SIDE)]
    pixels.sort(key=lambda p: -relevance[p].item())  # stable: ties in reading order
    image, points, done = start.clone(), [], 0
    for count in path_counts(SIDE * SIDE, steps).tolist():
        while done < count:
            i, j = pixels[done]
            image[:, i, j] = end[:, i, j]
            done += 1
        with torch.no_grad():
            points.append((count / len(pixels), net(image[None]).softmax(1)[0, k].item()))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@pytest.mark.parametrize(("steps", "batch_size"), [(7, 500), (7, 1), (1000, 40)])
def test_deletion_and_insertion_follow_the_definition(net, case, steps, batch_size):
    x, maps, k = case
    options = {"steps": steps, "batch_size": batch_size}
    ends = {deletion_auc: (x, mean_baseline(x)), insertion_auc: (blur_baseline(x), x)}
    for auc, (start, end) in ends.items():
        expected = [
            area_by_loop(net, start[b], end[b], maps[b], k[b], min(steps, SIDE * SIDE))
            for b in range(B)
        ]
        found = auc(net, x, maps, k, **options)
        # Probabilities are taken in float32.
        torch.testing.assert_close(found, torch.tensor(expected).to(found), atol=1e-6, rtol=0)


def test_a_map_that_knows_the_evidence_beats_its_opposite():
    """Class 1 is the sum of the upper left corner."""
    weight = torch.zeros(2, 3, 8, 8)
    weight[1, :, :3, :3] = 0.1
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2, bias=False))
    net[1].weight.data = weight.flatten(1)
    x, k = torch.rand(5, 3, 8, 8) / 10, torch.ones(5, dtype=torch.long)
    x[:, :, :3, :3] += 1
    good = weight[1, 0].expand(5, -1, -1)
    assert (deletion_auc(net, x, good, k) < deletion_auc(net, x, -good, k)).all()
    assert (insertion_auc(net, x, good, k) > insertion_auc(net, x, -good, k)).all()


def test_blur_is_a_gaussian(case):
    x = case[0]
    expected = x.numpy()
    for axis in (2, 3):  # scipy's "mirror" is torch's "reflect"
        expected = gaussian_filter1d(expected, SIDE / 8, axis=axis, mode="mirror", radius=4)
    np.testing.assert_allclose(blur_baseline(x).numpy(), expected, atol=1e-12)
    assert blur_baseline(torch.ones(1, 1, 1, 1)).item() == 1


# Infidelity and sensitivity


@pytest.mark.parametrize("make", [lambda g: square_removal(5, g), lambda g: gaussian_noise(0.3, g)])
@pytest.mark.parametrize("batch_size", [500, 9])
def test_infidelity_is_captums(net, case, make, batch_size):
    x, maps, k = case
    draws = [draw(x) for draw in [make(seeded())] for _ in range(6)]
    weights, changed = (torch.stack(t, dim=1).flatten(0, 1) for t in zip(*draws, strict=True))
    # captum multiplies all channels of the input; the map is counted in one of them.
    weights_BCHW = torch.zeros_like(changed)
    weights_BCHW[:, 1] = weights
    maps_BCHW = maps[:, None].expand_as(x)
    expected = captum.metrics.infidelity(
        net,
        lambda _: (weights_BCHW, changed),
        x,
        maps_BCHW,
        target=k,
        n_perturb_samples=6,
        normalize=True,
    )
    found = infidelity(net, x, maps, k, make(seeded()), samples=6, batch_size=batch_size)
    torch.testing.assert_close(found.value_B, expected.detach())
    assert ((found.share_B >= 0) & (found.share_B <= 1)).all()


def test_infidelity_of_a_linear_model_is_zero_for_its_gradient(case):
    """And the share that no map explains is 1."""
    x, _, k = case
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 5).double())
    gradient = class_maps(net, x, kind="gradient")[torch.arange(B), k]
    scaled = infidelity(net, x, 7 * gradient, k, gaussian_noise(0.3, seeded()))
    assert scaled.share_B.max() < 1e-12
    nothing = infidelity(net, x, 0 * gradient, k, gaussian_noise(0.3, seeded()))
    torch.testing.assert_close(nothing.share_B, torch.ones_like(nothing.share_B))


def test_perturbations_are_what_they_say(case):
    x = case[0]
    perturb, places = square_removal(5, seeded()), set()
    for _ in range(60):
        weights, changed = perturb(x)
        for b in range(B):
            rows, columns = weights[b].nonzero(as_tuple=True)
            i, j = rows.min(), columns.min()
            assert (len(rows), rows.max() - i, columns.max() - j) == (25, 4, 4)
            places.add((i.item(), j.item()))
            expected = x[b].clone()
            expected[:, i : i + 5, j : j + 5] = x[b].mean((1, 2))[:, None, None]
            torch.testing.assert_close(changed[b], expected)
    assert len(places) > 50  # of 64
    assert square_removal(99, seeded())(x)[0].min() == 1
    noise, changed = gaussian_noise(0.3, seeded())(torch.cat([x] * 20))
    assert abs(noise.std().item() - 0.3) < 0.01
    torch.testing.assert_close(changed + noise[:, None], torch.cat([x] * 20))


@pytest.mark.parametrize("kind", ["cam", "input_x_gradient"])
@pytest.mark.parametrize("batch_size", [500, 9])
def test_sensitivity_is_captums(net, case, kind, batch_size):
    x, _, k = case
    layer = find_explained_layer(net, x, kind=kind)

    def explain(x, k):
        return maps_of_classes(net, x, k, kind=kind, layer=layer)

    def by_captum(images):
        (images,) = images if isinstance(images, tuple) else (images,)
        return (explain(images, k.repeat_interleave(len(images) // B)),)

    draws = [x + 0.1 * (2 * torch.rand(x.shape, generator=g) - 1) for g in [seeded()] * 6]
    near = torch.stack(draws, dim=1).flatten(0, 1)
    expected = captum.metrics.sensitivity_max(
        by_captum,
        x,
        perturb_func=lambda _: near,
        n_perturb_samples=6,
    )
    options = {"radius": 0.1, "samples": 6, "batch_size": batch_size}
    found = max_sensitivity(explain, x, k, generator=seeded(), **options)
    torch.testing.assert_close(found, expected.to(found))


# The pointing game


def test_pointing_game_by_loop(case):
    maps = case[1] + torch.rand(B, SIDE, SIDE)
    torch.manual_seed(2)
    corner = torch.randint(0, SIDE - 4, (B, 2, 2))
    boxes = [torch.cat([c, c + 4], dim=1) for c in corner]
    for b in range(2):  # so that some hit
        i, j = divmod(maps[b].argmax().item(), SIDE)
        boxes[b][1] = torch.tensor([j, i, j + 1, i + 1])
    for tolerance in (0, 3):
        expected = []
        for m, box in zip(maps, boxes, strict=True):
            i, j = divmod(m.argmax().item(), SIDE)
            t = tolerance
            inside = [x0 - t <= j < x1 + t and y0 - t <= i < y1 + t for x0, y0, x1, y1 in box]
            expected.append(any(inside))
        assert pointing_hits(maps, boxes, tolerance=tolerance).tolist() == expected
        assert any(expected)
    with pytest.raises(InputError, match="one tensor"):
        pointing_hits(maps, boxes[1:])


# Rank correlation and randomised weights


def test_spearman_is_scipys(case):
    a = case[1]
    torch.manual_seed(3)
    b = a + 2 * torch.randn_like(a).round()  # with ties
    expected = [spearmanr(a[i].flatten(), b[i].flatten()).statistic for i in range(B)]
    np.testing.assert_allclose(spearman(a, b).numpy(), expected, atol=1e-12)
    assert spearman(a, torch.zeros_like(a)).tolist() == [0] * B
    torch.testing.assert_close(spearman(a.float(), b.float()), spearman(a, b).float())


@pytest.mark.parametrize("kind", KINDS)
def test_own_class_map_is_that_of_class_maps(net, case, kind):
    x, _, k = case
    for model in (net, warmed(FunctionalNet(pool="mean", dropout=0.5))):
        layer = find_explained_layer(model, x, kind=kind)
        expected = class_maps(model, x, kind=kind)[torch.arange(B), k]
        found = maps_of_classes(model.train(), x, k, kind=kind, layer=layer)
        torch.testing.assert_close(found, expected)
        with torch.inference_mode():
            inside = maps_of_classes(model, x.clone(), k.clone(), kind=kind, layer=layer)
        assert torch.equal(inside, found)


def test_cascade_reaches_every_weight_from_the_head_down(case):
    x = case[0]
    for model in (warmed(residual_net()), warmed(FunctionalNet()), warmed(ViT())):
        stages = weight_stages(model, x)
        own = [n for n, m in model.named_modules() if list(m.parameters(recurse=False))]
        assert sorted(name for stage in stages for name in stage) == sorted(own)
        before = {n: p.clone() for n, p in model.named_parameters()}
        lost: set[str] = set()
        for (_, changed), stage in zip(cascade(model, x, seeded()), stages, strict=True):
            lost |= set(stage)
            for name, p in changed.named_parameters():
                spread = before[name].std(correction=0) > 0
                same = torch.equal(p, before[name])
                assert same == (name.rpartition(".")[0] not in lost or not spread), name
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    names = [stage[0] for stage in weight_stages(warmed(residual_net()), x)]
    assert names[0] == "fc"
    assert names.index("layer2.conv2") < names.index("layer1.conv1")


def test_randomised_weights_change_a_map_that_depends_on_them(net, case):
    """An edge-like map that looks at the image alone does not fall, and so fails the check."""
    x, _, k = case

    def gradient(model, x, k):
        layer = find_explained_layer(model, x, kind="gradient")
        return maps_of_classes(model, x, k, kind="gradient", layer=layer)

    found = cascade_correlations(net, x, k, gradient, seeded())
    *_, last = found.values()
    assert list(found) == [stage[0] for stage in weight_stages(net, x)]
    assert last.abs().max() < 0.5
    again = cascade_correlations(net, x, k, gradient, seeded())
    assert all(torch.equal(found[name], again[name]) for name in found)
    blind = cascade_correlations(net, x, k, lambda model, x, k: x.sum(1), seeded())
    assert all((rho > 1 - 1e-9).all() for rho in blind.values())


# What all share


@pytest.mark.parametrize("train", [True, False])
def test_metrics_leave_no_trace(net, case, train):
    x, maps, k = case
    prepared(net, train)
    layer = find_explained_layer(net, x, kind="gradient")

    def explain(model, x, k):
        return maps_of_classes(model, x, k, kind="gradient", layer=layer)

    before = snapshot(net, x)
    deletion_auc(net, x, maps, k)
    insertion_auc(net, x, maps, k)
    infidelity(net, x, maps, k, square_removal(4, seeded()))
    max_sensitivity(lambda x, k: explain(net, x, k), x, k, generator=seeded())
    cascade_correlations(net, x, k, explain, seeded())
    assert_same(before, snapshot(net, x))


def test_what_does_not_fit_is_refused(net, case):
    x, maps, k = case
    with pytest.raises(InputError, match=r"shape \(4, 6, 6\); pass finite maps of shape \(4, 12"):
        deletion_auc(net, x, maps[:, ::2, ::2], k)
    with pytest.raises(InputError, match="pass 4 whole numbers"):
        insertion_auc(net, x, maps, k[:2])
    with pytest.raises(InputError, match="finite"):
        infidelity(net, x, maps / 0, k, square_removal(2, seeded()))
    assert upsampled(maps[:, ::2, ::2], (SIDE, SIDE)).shape == maps.shape
