"""A recorder of a model on a GPU: interrupted, continued, and read on a CPU."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.cuda_nets import GPU
from tests.helpers.recorded import MEAN, STD, Images, Tiny

from selfexplain import Introspective, Recorder
from selfexplain.experiments.explain.explain import load_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def train(folder: Path, epochs: int) -> None:
    """Train until so many epochs of two are over."""
    objective = Introspective(Tiny(3, 3)).to(GPU)
    optimizer = torch.optim.Adam(objective.parameters())
    x, y = Images().x_NCHW.to(GPU), (torch.arange(12) % 3).to(GPU)
    recorder = Recorder(
        folder,
        objective.model,
        objective=objective,
        data=[(x, y)],
        mean=MEAN,
        std=STD,
        epochs=2,
        factory="tests.helpers.recorded:tiny",
        state={"optimizer": optimizer},
    )
    recorder.__enter__()
    for _ in range(recorder.epochs_done, epochs):
        out = objective(x, y)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        recorder.epoch({"loss": out["loss"]})
    if epochs == 2:
        recorder.finish()
    recorder.close()


def test_a_loop_on_a_gpu_is_recorded_continued_and_read(tmp_path: Path) -> None:
    for epochs in (1, 2):
        train(tmp_path / "mine", epochs)
    run = load_run(tmp_path / "mine")
    predicted = load_file(tmp_path / "mine" / "predictions.safetensors")
    with torch.no_grad():
        logits = run.objective.model(Images().x_NCHW)
    torch.testing.assert_close(logits, predicted["logits"], atol=1e-3, rtol=1e-3)
    assert (tmp_path / "mine" / "album" / "epoch-0002.safetensors").exists()
    assert run.objective.steps == 2
