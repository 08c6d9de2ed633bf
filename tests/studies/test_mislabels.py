"""The study of doubted labels: its baseline by hand, and its table by its log."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score
from studies.mislabels import (
    SCORES,
    changed_labels,
    confident_joint,
    confused_with,
    flagged_first,
    found,
    prune_by_noise_rate,
    table,
)

RESULTS = Path(__file__).parents[2] / "results" / "mislabels"
# Labelled 0: three sure ones and one that is surely 1; labelled 1: two sure ones and an unsure one.
P_NK = torch.tensor(
    [[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.2, 0.8], [0.55, 0.45]],
    dtype=torch.float64,
)
Y_N = torch.tensor([0, 0, 0, 0, 1, 1, 1])


def test_the_confident_joint_follows_the_papers_definition() -> None:
    """Thresholds: (0.9 + 0.8 + 0.9 + 0.1) / 4 = 0.675, and (0.9 + 0.8 + 0.45) / 3 = 0.717."""
    joint_KK, class_N = confident_joint(P_NK, Y_N)
    assert class_N.tolist() == [0, 0, 0, 1, 1, 1, -1]
    assert joint_KK.tolist() == [[3, 1], [0, 2]]


def test_as_many_are_pruned_as_the_joint_says() -> None:
    """Row 0 sums to 4 of 4 labels, so that one is pruned: the one with the greatest margin."""
    assert prune_by_noise_rate(P_NK, Y_N).tolist() == [False] * 3 + [True] + [False] * 3


def test_a_joint_is_scaled_to_the_counts_of_labels() -> None:
    p_NK = torch.cat([P_NK, torch.full((4, 2), 0.5, dtype=torch.float64)])
    y_N = torch.cat([Y_N, torch.zeros(4, dtype=torch.int64)])
    joint_KK, _ = confident_joint(p_NK, y_N)
    pruned_N = prune_by_noise_rate(p_NK, y_N)
    wanted = round(float(joint_KK[0, 1]) / float(joint_KK[0].sum()) * 8)
    assert int(pruned_N[y_N == 0].sum()) == wanted == 2


def test_what_is_flagged_comes_first() -> None:
    doubt_N = torch.tensor([0.1, 0.9, 0.5, -3.0])
    order = flagged_first(doubt_N, torch.tensor([True, False, False, True])).argsort()
    assert order.tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("score", SCORES)
def test_every_score_finds_the_surely_wrong_one(score: str) -> None:
    assert int(SCORES[score][1](P_NK, Y_N).argmax()) == 3


def test_a_share_of_labels_is_changed_and_only_to_others() -> None:
    y_N = torch.arange(200) % 4
    for to_K in (None, torch.tensor([1, 0, 3, 2])):
        given_N = changed_labels(y_N, 0.1, 0, 4, to_K)
        changed_N = given_N != y_N
        assert int(changed_N.sum()) == 20
        if to_K is not None:
            assert torch.equal(given_N[changed_N], to_K[y_N[changed_N]])


def test_classes_are_confused_with_what_gets_their_probability() -> None:
    assert confused_with(torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]), torch.tensor([0, 1]))[
        :2
    ].tolist() == [2, 2]


def test_what_is_found_is_scikit_learns() -> None:
    doubt_N, wrong_N = torch.rand(50), torch.arange(50) % 7 == 0
    scores = found(doubt_N, wrong_N)
    assert scores["average_precision"] == pytest.approx(
        100 * average_precision_score(wrong_N.numpy(), doubt_N.numpy())
    )
    worst = sorted(range(50), key=lambda i: -float(doubt_N[i]))[: int(wrong_N.sum())]
    right = sum(bool(wrong_N[i]) for i in worst) / len(worst)
    assert scores["precision_at_count"] == pytest.approx(100 * right)


def test_the_published_table_is_that_of_its_log() -> None:
    lines = (RESULTS / "scores.jsonl").read_text().splitlines()
    assert (RESULTS / "table.md").read_text() == table([json.loads(line) for line in lines])
