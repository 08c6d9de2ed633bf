"""What two processes tell each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.two_processes import in_two_processes

from selfexplain.distributed import exists_for_all, gathered, mean_numbers, take_from_first
from selfexplain.errors import InputError
from selfexplain.training.processes import joined_processes


def told(rank: int, folder: str) -> dict[str, Any]:
    processes = joined_processes()
    mine = torch.full((2, 3, 2, 2), float(rank)).to(memory_format=torch.channels_last)
    mine[0, 1, 0, 1] += 5
    flags = torch.tensor([rank == 0, True])
    means = processes.mean([torch.tensor(float(rank)), mine.double(), torch.empty(0)])
    take_from_first([mine, flags])
    seen = Path(folder) / f"of{rank}"
    seen.touch()
    with pytest.raises(InputError, match="a file system that all the machines share"):
        exists_for_all(seen if rank == 0 else seen.with_name("absent"))
    return {
        "processes": [processes.rank, processes.count],
        "means": list(means),
        "taken": mine,
        "flags": flags,
        "gathered": gathered(torch.arange(rank + 1), uneven=True),
        "numbers": mean_numbers({"loss": float(rank), "accuracy": 10.0}),
        "exists": [exists_for_all(seen), exists_for_all(Path(folder) / "absent")],
    }


def test_means_shares_and_agreement(tmp_path: Path) -> None:
    both = in_two_processes(told, tmp_path, str(tmp_path))
    assert [found["processes"] for found in both] == [[0, 2], [1, 2]]
    first_had = torch.zeros(2, 3, 2, 2)
    first_had[0, 1, 0, 1] = 5
    for found in both:
        scalar, mean, empty = found["means"]
        assert scalar == 0.5
        assert scalar.dtype == torch.float32
        assert torch.equal(mean, first_had.double() + 0.5)
        assert empty.shape == (0,)
        assert torch.equal(found["taken"], first_had)
        assert found["flags"].tolist() == [True, True]
        assert found["gathered"].tolist() == [0, 0, 1]
        assert found["numbers"] == {"loss": 0.5, "accuracy": 10.0}
        assert found["exists"] == [True, False]
