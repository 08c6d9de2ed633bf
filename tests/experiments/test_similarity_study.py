"""The study of what similarity knows: its figure against scikit-learn, and a whole small run."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from studies.similarity_study import SimilarityStudyConfig, group_auc, run_similarity_study

from selfexplain.experiments.options import DataOptions
from selfexplain.training import TrainingOptions

GROUPS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


def test_group_auc_equals_scikit_learn() -> None:
    torch.manual_seed(0)
    s, y = torch.randn(20, 8), torch.arange(20) % 8
    fast = group_auc(s, y, GROUPS)
    for b, true in enumerate(y.tolist()):
        others = [k for k in range(8) if k != true]
        mates = [int(GROUPS[k] == GROUPS[true]) for k in others]
        assert fast[b].item() == pytest.approx(roc_auc_score(mates, s[b, others].numpy()))


def test_group_auc_of_ties_and_of_a_class_alone() -> None:
    tied = group_auc(torch.zeros(1, 8), torch.tensor([0]), GROUPS)
    assert tied.item() == 0.5
    alone = group_auc(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([0, 1, 1]))
    assert alone.isnan().all()


# Each of the two readings leaves the column of the other unread, and says so.
@pytest.mark.filterwarnings("ignore:.*the columns not read are")
def test_study_runs_on_a_table_with_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fine = list(range(6)) * 20
    rows = {
        "image": [rng.integers(0, 255, (16, 16), dtype=np.uint8) for _ in fine],
        "label": fine,
        "group": [k // 3 for k in fine],
    }
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list("abcdef")),
        group=datasets.ClassLabel(names=["first", "second"]),
    )
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / f"{split}-0.parquet")
    config = SimilarityStudyConfig(
        data=DataOptions(data=f"parquet:{tmp_path}"),
        group_column="group",
        out=tmp_path / "out",
        images=30,
        training=TrainingOptions(epochs=3, batch_size=40),
    )
    found = run_similarity_study(config)
    lines = [json.loads(t) for t in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "attribution" in line] == [1, 3]
    assert len(found) == 2
    assert all(0 <= value <= 100 for row in found for value in row.values())
