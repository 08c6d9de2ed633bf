"""The sections of the report against plain loops and outside libraries."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from selfexplain.evaluation import calibration_error
from selfexplain.report.html import image_pixels, linspace_indices, map_pixels, shrunk
from selfexplain.report.sections import (
    EpochSnapshot,
    Predictions,
    Record,
    Similarity,
    Snapshots,
    classes_section,
    cost_section,
    curves_section,
    gallery_section,
    reliability_section,
    run_results,
)
from selfexplain.report.sections.classes import agreement, confusion, strongest_pairs
from selfexplain.report.sections.curves import curve_of
from selfexplain.report.sections.reliability import reliability_bins

EVIL = '<script>"x"</script>$\\y$'


def predictions(n: int = 300, k: int = 5, scale: float = 2.0) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, k, generator=generator)
    return Predictions(logits_NK=logits, labels_N=torch.randint(k, (n,), generator=generator))


def left_similarity(k: int) -> Any:
    """The reader of a run that left a matrix of similar classes."""
    return lambda name, shapes: {"similarity": torch.rand(k, k), "count": torch.ones(k)}


def record(seed: int = 0, objective: str = "a", **more: object) -> Record:
    return Record(objective=objective, seed=seed, class_names=tuple("vwxyz"), **more)  # type: ignore[arg-type]


def lines(*losses: float | None) -> tuple[dict[str, object], ...]:
    return tuple({"epoch": i, "loss": loss} for i, loss in enumerate(losses, start=1))


def test_bins_follow_their_definition() -> None:
    p = predictions()
    bins = reliability_bins(p.logits_NK, p.labels_N)
    assert len(bins) == 15
    sure = [max(row) for row in p.logits_NK.softmax(dim=1).tolist()]
    right = (p.logits_NK.argmax(dim=1) == p.labels_N).tolist()
    for i, found in enumerate(bins):
        mine = [j for j, c in enumerate(sure) if i / 15 <= c < (i + 1) / 15]
        assert found.count == len(mine)
        if mine:
            assert found.confidence == pytest.approx(sum(sure[j] for j in mine) / len(mine))
            assert found.accuracy == pytest.approx(sum(right[j] for j in mine) / len(mine))
        else:
            assert (found.confidence, found.accuracy) == (None, None)


def test_bins_add_up_to_the_ece() -> None:
    p = predictions()
    bins = reliability_bins(p.logits_NK, p.labels_N)
    gaps = [b.count * abs(b.accuracy - b.confidence) for b in bins if b.count]  # type: ignore[operator]
    assert 100 * sum(gaps) / 300 == pytest.approx(calibration_error(p.logits_NK, p.labels_N))


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    bins = reliability_bins(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert [b.count for b in bins] == [0] * 14 + [1]


def test_diagram_of_the_first_seed_shows_its_ece() -> None:
    first, second = predictions(), predictions(scale=0.5)
    body = reliability_section([record(0, predictions=first), record(1, predictions=second)]).body
    assert body.count("<svg") == 1
    ece = calibration_error(first.logits_NK, first.labels_N)
    assert f"ECE {ece:.2f} %" in body


def test_curve_is_the_mean_and_range_over_seeds() -> None:
    curve = curve_of([record(0, metrics=lines(1, 2, 9)), record(1, metrics=lines(3, 6))], "loss")
    assert curve is not None
    assert curve.epochs == (1, 2)  # the third was reached by one seed only
    assert (curve.mean, curve.least, curve.greatest) == ((2, 4), (1, 2), (3, 6))
    assert curve.seeds == 2


def test_curve_leaves_out_what_is_no_number() -> None:
    curve = curve_of([record(metrics=lines(1, math.nan, None, 4))], "loss")
    assert curve is not None
    assert curve.epochs == (1, 4)
    assert curve_of([record(metrics=lines(math.nan))], "loss") is None


def test_every_logged_number_has_a_chart() -> None:
    metrics = ({"epoch": 1, "step_seconds": 0.1, "loss": 1.0, "accuracy": 50.0, "odd_term": 2.0},)
    body = curves_section([record(metrics=metrics), record(1, EVIL, metrics=metrics)]).body
    assert body.count('role="img"') == 3
    assert re.search(r"<details>.*odd term.*</details>", body, re.DOTALL)
    assert "Line chart of accuracy on scored images, % over the epochs; at the end: a 50" in body
    assert "<script>" not in body


def test_confusion_is_sklearns() -> None:
    p = predictions()
    answers = p.logits_NK.argmax(dim=1)
    wanted = confusion_matrix(p.labels_N, answers, normalize="true")
    np.testing.assert_allclose(confusion(p).numpy(), wanted, atol=1e-6)


def test_agreement_is_spearmans_off_the_diagonal_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 4, 4, generator=generator)
    count = torch.tensor([1, 1, 0, 1])
    rows = [(i, j) for i in (0, 1, 3) for j in range(4) if i != j]
    ranks = [np.argsort(np.argsort([float(m[i, j]) for i, j in rows])) for m in (a, b)]
    wanted = np.corrcoef(*ranks)[0, 1]
    assert agreement(Similarity(similarity_KK=a, count_K=count), b) == pytest.approx(wanted)
    assert agreement(Similarity(similarity_KK=a, count_K=count), torch.eye(4)) is None


def test_strongest_pairs_by_brute_force() -> None:
    matrix = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    pairs = sorted(((float(matrix[i, j]), i, j) for i in range(6) for j in range(6)), reverse=True)
    assert strongest_pairs(matrix, 7) == [(i, j) for _, i, j in pairs[:7]]
    assert strongest_pairs(torch.zeros(3, 3)) == []


@pytest.mark.parametrize(("k", "labelled"), [(3, True), (40, False)])
def test_names_stand_beside_a_matrix_as_long_as_they_fit(k: int, labelled: bool) -> None:
    names = tuple(f"name{i}{EVIL}" for i in range(k))
    whole = Record(
        objective="a",
        seed=0,
        class_names=names,
        predictions=predictions(k=k),
        read=left_similarity(k),
    )
    body = classes_section([whole]).body
    assert ("name0" in "".join(re.findall(r"<text.*?</text>", body, re.DOTALL))) == labelled
    assert "<table>" in body
    assert "<script>" not in body


def test_map_pixels_say_for_and_against() -> None:
    pixels = map_pixels(torch.tensor([[2.0, -1.0], [0.0, 8.0]]), scale=2.0)
    assert pixels[0, 0].tolist() == [202, 0, 32, 204]
    assert pixels[0, 1].tolist() == [5, 80, 174, 102]  # half as strong
    assert pixels[1, 0, 3] == 0
    assert pixels[1, 1].tolist() == pixels[0, 0].tolist()  # beyond the scale


def test_shrunk_keeps_the_mean() -> None:
    x = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))
    small = shrunk(x, 32)
    assert small.shape == (3, 16, 32)
    torch.testing.assert_close(small.mean(dim=(1, 2)), x.mean(dim=(1, 2)))
    assert shrunk(x, 128) is x


def test_pale_grey_keeps_white_and_lifts_black() -> None:
    ends = torch.tensor([[[0, 255]]], dtype=torch.uint8).expand(3, 1, 2)
    assert image_pixels(ends).tolist() == [[[0] * 3, [255] * 3]]
    assert image_pixels(ends, grey=True).tolist() == [[[110], [255]]]


def epoch_snapshot(epoch: int, k: int = 2) -> EpochSnapshot:
    return EpochSnapshot(
        epoch=epoch,
        probabilities_BK=torch.tensor([[0.25, 0.75]]),
        target_BK=torch.tensor([[0.0, 1.0]]),
        classes_BR=torch.tensor([[0, 1]]),
        maps_BRHW=torch.zeros(1, 2, 3, 3),
    )


def test_gallery_of_two_classes_shows_the_one_rival() -> None:
    snapshots = Snapshots(
        images_BCHW=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        labels_B=torch.tensor([0]),
        after_epochs=(epoch_snapshot(1), epoch_snapshot(5)),
        planned_epochs=30,
    )
    names = (EVIL, "dog")
    body = gallery_section(
        Record(objective="a", seed=0, class_names=names, snapshots=snapshots)
    ).body
    assert body.count('class="frame"') == 2
    assert body.count("<img") == 2 * 2
    assert "after epoch 5 of 30" in body
    assert "predicted: dog, 75 % (wrong)" in body
    assert "all others" not in body
    assert "<script>" not in body


def test_a_controls_target_is_not_taken_for_the_explanations() -> None:
    snapshots = Snapshots(
        images_BCHW=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        labels_B=torch.tensor([0]),
        after_epochs=(epoch_snapshot(1),),
        planned_epochs=1,
    )
    more = {"snapshots": snapshots, "predictions": predictions(), "read": left_similarity(5)}
    for control, said in (("permuted", True), ("none", False)):
        run = record(control=control, **more)
        for section in (gallery_section(run), classes_section([run])):
            assert ("that of the control" in section.body) == said


def test_what_is_missing_is_said() -> None:
    bare = record()
    for section in (
        reliability_section([bare]),
        classes_section([bare]),
        gallery_section(None),
        curves_section([bare]),
        run_results(bare, ""),
    ):
        assert "<svg" not in section.body
        assert "not finished" in section.body or "ended" in section.body


def test_cost_names_the_front() -> None:
    rows = [
        {"objective": name, "cost": cost, "accuracy_mean": accuracy, "accuracy_std": None}
        for name, cost, accuracy in [("a", 1.0, 90.0), (EVIL, 2.0, 91.0), ("c", 3.0, 90.5)]
    ]
    body = cost_section({"summary": rows}).body
    assert "more accurate: a, &lt;script&gt;" in body
    assert "c: cost 3.00, accuracy 90.50 %" in body
    assert "<script>" not in body


@pytest.mark.parametrize("n", [1, 2, 19, 20, 21, 200])
def test_evenly_holds_first_and_last_and_no_place_twice(n: int) -> None:
    places = linspace_indices(n, 20)
    assert len(places) == min(n, 20) == len(set(places))
    assert (places[0], places[-1]) == (0, n - 1)
    steps = {b - a for a, b in itertools.pairwise(places)}
    assert max(steps, default=1) - min(steps, default=1) <= 1
