"""The album of a search: what it holds, and that the search does not notice it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from selfexplain.data import normalise
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.search.loop import SearchSnapshotWriter, snapshot_indices
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search.setup import build_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.lease import LeaSE, LeaSEOptions
from selfexplain.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def tiny(out: Path, **options: Any) -> SearchConfig:
    data = DataOptions(data="digits", train_size=40, validation=0.03)
    return SearchConfig(
        **{"data": data, "batch_size": 20, "init_channels": 4, "cells": 1, "epochs": 2}
        | {"warmup_epochs": 0, "out": out}
        | options
    )


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "sanas"},
        {"options": LeaSEOptions(control="random_delta")},
        {"options": LeaSEOptions(control="shuffled_delta", explanation_steps=2)},
        {"options": LeaSEOptions(control="saliency")},
    ],
    ids=str,
)
def test_the_search_is_bit_for_bit_that_without_the_album(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_album = run_search(tiny(tmp_path / "with", **options))
    monkeypatch.setattr(SearchSnapshotWriter, "record", lambda *_: None)
    without = run_search(tiny(tmp_path / "without", **options))
    assert (tmp_path / "with" / "album").exists()
    assert not (tmp_path / "without" / "album").exists()
    states = [
        load_checkpoint(tmp_path / n / "checkpoint.pt")["search"] for n in ("with", "without")
    ]
    pairs = list(zip(*map(tensors_in, states), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(a, b) for a, b in pairs)
    del with_album["step_seconds"], without["step_seconds"]
    assert with_album == without


def test_what_the_album_holds(tmp_path: Path) -> None:
    config = tiny(tmp_path / "s")
    run_search(config)
    held_out = prepare(load(config.data), config.data, config.seed).scored
    album = tmp_path / "s" / "album"
    images = load_file(album / "images.safetensors")
    assert len(images["labels"].unique()) == 4
    indices_B = snapshot_indices(held_out.labels_N, 20)[:4]
    assert torch.equal(images["images"], held_out.read(indices_B))
    assert torch.equal(images["labels"], held_out.labels_N[indices_B])
    epochs = [load_file(album / f"epoch-{epoch:04d}.safetensors") for epoch in (1, 2)]
    assert len(list(album.iterdir())) == 3
    for epoch in epochs:
        assert {name: t.shape for name, t in epoch.items()} == dict.fromkeys(
            ("delta", "explained"), images["images"].shape
        )
        assert 0 < epoch["delta"].abs().max() < 8 / 255
    assert not torch.equal(epochs[0]["delta"], epochs[1]["delta"])


def test_explanation_is_one_step_uphill_shown_as_a_picture(tmp_path: Path) -> None:
    """Against the formulas of lease/search.py and lease/lease.py, written out with autograd."""
    config = tiny(tmp_path)
    data = load(config.data)
    prepared = prepare(data, config.data, config.seed)
    search = build_search(config, data, prepared.std_C, CPU)
    assert isinstance(search, LeaSE)
    SearchSnapshotWriter(config, prepared, CPU).record(search, epoch=1)

    images_BCHW = prepared.scored.read(snapshot_indices(prepared.scored.labels_N, 20))
    mean, std = prepared.mean_C.item(), prepared.std_C.item()
    x_BCHW = normalise(images_BCHW, prepared.mean_C, prepared.std_C)
    pixels_BCHW = torch.zeros_like(x_BCHW, requires_grad=True)
    copies = {name: buffer.clone() for name, buffer in search.supernet.named_buffers()}
    inputs = (x_BCHW + pixels_BCHW / std, search.architecture)
    logits_BK = functional_call(search.supernet, copies, inputs)
    loss = cross_entropy(logits_BK, logits_BK.argmax(1), reduction="sum")
    (slope_BCHW,) = torch.autograd.grad(loss, pixels_BCHW)
    eps = 8 / 255
    for index, slope_CHW in enumerate(slope_BCHW[:4]):
        delta_CHW = eps * torch.tanh(slope_CHW / slope_CHW.square().mean().sqrt())
        picture_CHW = mean + std * x_BCHW[index] * delta_CHW / eps
        found = load_file(tmp_path / "album" / "epoch-0001.safetensors")
        torch.testing.assert_close(found["delta"][index], delta_CHW, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(found["explained"][index], picture_CHW, atol=1e-5, rtol=1e-3)


def test_recording_leaves_all_as_it_found_it(tmp_path: Path) -> None:
    config = tiny(tmp_path, options=LeaSEOptions(control="shuffled_delta"))
    data = load(config.data)
    prepared = prepare(data, config.data, config.seed)
    search = build_search(config, data, prepared.std_C, CPU)
    album = SearchSnapshotWriter(config, prepared, CPU)
    search.supernet.eval()
    for parameter in search.supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [t.clone() for t in tensors_in(search.state_dict())]
    random_before = torch.get_rng_state()
    album.record(search, epoch=1)
    assert all(
        torch.equal(a, b) for a, b in zip(before, tensors_in(search.state_dict()), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), random_before)
    assert not any(module.training for module in search.supernet.modules())
    assert all(bool((p.grad == 1).all()) for p in search.supernet.parameters())  # type: ignore[union-attr]


def test_a_cut_epoch_is_written_anew(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_search(tiny(whole, epochs=3))

    def stop(done: int, total: int) -> None:
        if done == 3:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tiny(cut, epochs=3), on_step=stop)
    (cut / "album" / "epoch-0002.safetensors").write_bytes(b"of a process that was killed")
    run_search(tiny(cut, epochs=3, resume=True))
    for path in sorted((whole / "album").iterdir()):
        assert path.read_bytes() == (cut / "album" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("space", "method"),
    [("darts", "darts1"), ("pcdarts", "darts1"), ("nasbench201", "random_search")],
)
def test_methods_that_do_not_explain_leave_alphas_alone(
    space: Any, method: Any, tmp_path: Path
) -> None:
    cells = {"cells": 3, "init_channels": 8} if space != "nasbench201" else {}
    run_search(tiny(tmp_path / "s", space=space, method=method, epochs=1, **cells))
    assert not (tmp_path / "s" / "album").exists()
    line = json.loads((tmp_path / "s" / "search.jsonl").read_text())
    state = load_checkpoint(tmp_path / "s" / "checkpoint.pt")["search"]["architecture"]
    assert set(line["alphas"]) == set(state)
    assert any(t.dim() == 1 for t in state.values()) == (space == "pcdarts")
    for name, tensor in state.items():
        torch.testing.assert_close(torch.tensor(line["alphas"][name]), tensor, atol=1e-6, rtol=0)
    for name, weights in line["weights"].items():
        softmax = torch.tensor(line["alphas"][name]).softmax(1)
        torch.testing.assert_close(torch.tensor(weights), softmax, atol=2e-5, rtol=0)


def test_small_batches_and_few_classes() -> None:
    assert snapshot_indices(torch.tensor([0, 0, 1]), 2).tolist() == [0, 2]
    many = snapshot_indices(torch.arange(100).repeat(2), 64)
    assert many[:4].tolist() == [0, 33, 66, 99]
    assert len(many.unique()) == 64
    assert int(many.max()) == 199
