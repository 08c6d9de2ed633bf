"""The sections of the report against plain loops and outside libraries."""

import csv
import itertools
import math
import re
from typing import Any
from urllib.parse import unquote

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
    comparison_results,
    cost_section,
    curves_section,
    gallery_section,
    reliability_section,
    run_results,
)
from selfexplain.report.sections.classes import (
    agreement,
    alike_order,
    confusion,
    strongest_pairs,
)
from selfexplain.report.sections.curves import curve_of
from selfexplain.report.sections.gallery import fixed_shares
from selfexplain.report.sections.reliability import reliability_bins
from selfexplain.report.style import method_styles

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


@pytest.mark.parametrize(("k", "labelled"), [(3, True), (15, True), (16, True), (41, False)])
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
    drawn = "".join(re.findall(r"<text.*?</text>", body, re.DOTALL))
    in_cells = body.count('class="matrix') == 2
    assert in_cells == (k <= 15)
    assert ("name…" in body if in_cells else "name0" in drawn) == labelled
    assert ("The order of the classes" in body) == (k > 15)
    assert "<table>" in body
    assert "<script>" not in body


def test_cells_are_white_at_nought_and_say_their_number() -> None:
    """Two of three images of class 0 are taken for class 1."""
    said = Predictions(logits_NK=torch.eye(3)[[1, 1, 0]], labels_N=torch.zeros(3, dtype=torch.long))
    run = Record(
        objective="a",
        seed=0,
        class_names=("u", "v", "w"),
        predictions=said,
        read=left_similarity(3),
    )
    matrix = classes_section([run]).body.split('<figure class="matrix">')[2]
    cells = re.findall(r'<td( class="[a-z]+")?(?: style="--share:([\d.]+)")?>(\d*)</td>', matrix)
    first = [("", "1.00", "67"), (' class="nought"', "0.00", "0")]
    assert cells[1:4] == [(' class="same"', "", ""), *first]  # behind the empty corner
    assert len(cells) == 10


def test_order_puts_alike_classes_together() -> None:
    """Three groups of four that are shuffled, and a class without images."""
    group = torch.arange(12) % 3
    similarity_KK = (group[:, None] == group).float() + 0.01
    similarity_KK = torch.nn.functional.pad(similarity_KK.fill_diagonal_(0), (0, 1, 0, 1))
    order = alike_order(similarity_KK)
    assert sorted(order) == list(range(13))
    assert order[-1] == 12
    found = [int(group[k]) for k in order[:12]]
    assert len(list(itertools.groupby(found))) == 3
    assert alike_order(torch.zeros(4, 4)) == [0, 1, 2, 3]


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


def wrong_answer(shares: list[float], **more: Any) -> Record:
    """A run with an image of class 0 that is taken for class 2, and one of class 1 that is not."""
    snapshot = EpochSnapshot(
        epoch=1,
        probabilities_BK=torch.tensor([[0.1, 0.1, 0.8, 0.0], [0.1, 0.9, 0.0, 0.0]]),
        target_BK=torch.tensor([[0.0, *shares], [shares[0], 0.0, *shares[1:]]]),
        classes_BR=torch.tensor([[0, 1, 2], [1, 0, 2]]),
        maps_BRHW=torch.rand(2, 3, 2, 2),
        **more,
    )
    snapshots = Snapshots(
        images_BCHW=torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        labels_B=torch.tensor([0, 1]),
        after_epochs=(snapshot,),
        planned_epochs=1,
    )
    return Record(
        objective="a", seed=0, class_names=("cat", "dog", "elk", "fly"), snapshots=snapshots
    )


def test_of_a_wrong_answer_both_maps_stand_side_by_side() -> None:
    body = gallery_section(wrong_answer([0.6, 0.3, 0.1])).body
    articles = body.split("<article>")[1:]
    names = [re.findall(r'alt="map of class (\w+)"', article) for article in articles]
    assert names == [["cat", "elk", "dog"], ["dog", "cat", "elk"]]
    assert "<span>cat <b>true</b></span>" in articles[0]
    assert "<span>elk <b>predicted</b></span>" in articles[0]
    assert "<b>" not in articles[1]


def test_a_map_that_an_older_run_lacks_is_named() -> None:
    run = wrong_answer([0.6, 0.3, 0.1])
    assert run.snapshots is not None
    snapshot = run.snapshots.after_epochs[0]
    snapshot.probabilities_BK[0] = torch.tensor([0.1, 0.1, 0.0, 0.8])
    assert "Of fly, which is predicted, this run kept no map" in gallery_section(run).body


def test_similarities_stand_in_place_of_targets_that_are_all_the_same() -> None:
    """A target of ranks: the same values in every image; its similarities may be negative."""
    similarity = torch.tensor([[1.0, 0.5, -0.25, -1.0], [0.5, 1.0, 0.25, 0.0]])
    body = gallery_section(wrong_answer([0.6, 0.3, 0.1], similarity_BK=similarity)).body
    assert "60, 30 %, the same in every image" in body
    assert 'aria-label="soft target"' not in body
    first, second = (
        re.findall(
            r"<li><span>(\w+)</span><span>(-?[\d.]+)</span>.*?left:([\d.]+)%;width:([\d.]+)", a
        )
        for a in body.split("<article>")[1:]
    )
    assert first == [("dog", "0.50", "50.0", "25.0"), ("elk", "-0.25", "37.5", "12.5")]
    assert second == [("cat", "0.50", "0.0", "50.0"), ("elk", "0.25", "0.0", "25.0")]
    # What an older run did not keep cannot be shown; the shares are in the text.
    assert 'class="bars"' not in gallery_section(wrong_answer([0.6, 0.3, 0.1])).body
    other = wrong_answer([0.6, 0.3, 0.1], similarity_BK=similarity)
    assert other.snapshots is not None
    other.snapshots.after_epochs[0].target_BK[1] = torch.tensor([0.5, 0.0, 0.4, 0.1])
    assert 'aria-label="soft target"' in gallery_section(other).body


def test_one_image_has_no_shares_in_common() -> None:
    assert fixed_shares(torch.tensor([[0.0, 1.0]]), 1) is None


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


def test_a_method_has_one_colour_throughout() -> None:
    """In curves, diagrams and tables, beside whatever it is compared with, and in any order."""
    metrics = ({"epoch": 1, "loss": 1.0},)
    for names in (("standard", "introspective"), ("introspective", "kd", "mine", "standard")):
        runs = [record(0, name, metrics=metrics, predictions=predictions()) for name in names]
        legend = re.findall(r"series-(\d).*?/></svg>(\w+)</li>", curves_section(runs).body)
        diagrams = re.findall(r"series-(\d)\)\"></i>(\w+)<", reliability_section(runs).body)
        rows = [summary_row(name) for name in names]
        table = comparison_results({"config": {}, "summary": rows}).body
        cells = re.findall(r"series-(\d)\)\"></i>(\w+)<", table)
        found = {(name, series) for part in (legend, diagrams, cells) for series, name in part}
        assert len(found) == len(names)
        assert {("introspective", "1"), ("standard", "7")} <= found


def test_styles_are_apart_as_long_as_there_are_any() -> None:
    names = [f"m{i}" for i in range(47)] + ["standard", "introspective"]
    assert len(set(method_styles(names).values())) == 49
    assert set(method_styles([*names, "one", "more"])) == {*names, "one", "more"}
    first = [method_styles(names)[name].colour for name in names[:5]]
    assert len(set(first)) == 5  # other dashes only where colours have run out


def summary_row(name: str) -> dict[str, Any]:
    return {
        "objective": name,
        "n": 1,
        "accuracy_mean": 90.0,
        "accuracy_std": None,
        "difference_mean": 0.0,
        "difference_ci95": None,
        "nll_mean": 0.3,
        "nll_std": None,
        "ece_mean": 2.0,
        "ece_std": None,
    }


def test_the_table_can_be_saved() -> None:
    body = comparison_results({"config": {}, "summary": [summary_row("a,b")]}).body
    links = dict(
        re.findall(r'download="results\.(\w+)" href="data:text/plain;charset=utf-8,([^"]*)"', body)
    )
    rows = list(csv.reader(unquote(links["csv"]).splitlines()))
    assert rows[0][:2] == ["objective", "accuracy %"]
    assert rows[1][:2] == ["a,b", "90.00"]
    assert r"\begin{tabular}" in unquote(links["tex"])


def test_cost_names_the_front() -> None:
    rows = [
        {"objective": name, "cost": cost, "accuracy_mean": accuracy, "accuracy_std": None}
        for name, cost, accuracy in [("a", 1.0, 90.0), (EVIL, 2.0, 91.0), ("c", 3.0, 90.5)]
    ]
    body = cost_section({"summary": rows}).body
    assert "No objective is clearly both cheaper and more accurate than another" in body
    for each in rows:
        each |= {"accuracy_std": 0.1, "n": 5, "cost_ci95": (each["cost"], each["cost"] + 0.01)}
    body = cost_section({"summary": rows}).body
    assert "more accurate: a, &lt;script&gt;" in body
    rows[1]["cost_ci95"] = (1.0, 2.0)
    touching = cost_section({"summary": rows}).body
    assert "Not clearly beaten in both cost and accuracy: a, &lt;script&gt;" in touching
    assert "c: cost 3.00, accuracy 90.50 %" in body
    assert "<script>" not in body


@pytest.mark.parametrize("n", [1, 2, 19, 20, 21, 200])
def test_evenly_holds_first_and_last_and_no_place_twice(n: int) -> None:
    places = linspace_indices(n, 20)
    assert len(places) == min(n, 20) == len(set(places))
    assert (places[0], places[-1]) == (0, n - 1)
    steps = {b - a for a, b in itertools.pairwise(places)}
    assert max(steps, default=1) - min(steps, default=1) <= 1
