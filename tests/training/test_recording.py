"""Which steps are recorded and which run as written; a stand-in records, so no GPU is needed."""

import gc
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from selfexplain.training.steps import GraphMemory, RecordedStep, no_garbage_collected


class Recorder(RecordedStep[dict[str, Tensor]]):
    """Notes which calls run as written, are recorded, or replayed."""

    def __init__(self) -> None:
        self.did: list[str] = []
        super().__init__(self.as_written)

    def as_written(self, x_N: Tensor) -> dict[str, Tensor]:
        self.did.append("written")
        return {}

    def _record(self, batch: tuple[Tensor, ...]) -> Any:
        self.did.append("recorded")
        self._batch = tuple(t.clone() for t in batch)
        self._out: dict[str, Tensor] = {}
        return SimpleNamespace(replay=lambda: self.did.append("replayed"))


def test_after_a_batch_of_another_shape_two_steps_of_the_usual_one_run_as_written() -> None:
    step = Recorder()
    for count in (4, 4, 4, 4, 3, 4, 4, 4):
        step(torch.ones(count))
    again = ["recorded", "replayed"]
    assert step.did == [*["written"] * 2, *again, "replayed", *["written"] * 3, *again]


def test_two_steps_of_one_shape_come_before_the_first_recording_too() -> None:
    step = Recorder()
    for count in (4, 3, 4, 4, 4):
        step(torch.ones(count))
    assert step.did == [*["written"] * 4, "recorded", "replayed"]


def test_the_first_recording_shares_no_memory() -> None:
    assert GraphMemory().pool() is None


def test_garbage_is_collected_again_as_before() -> None:
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        with no_garbage_collected():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    gc.enable()
