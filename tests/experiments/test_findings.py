"""What a run on photographs keeps of its mistakes, labels and borders, and what its page says."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from selfexplain import cli
from selfexplain.data import ImageData, MemoryImages, normalise
from selfexplain.errors import InputError
from selfexplain.evaluation.mislabels import second_opinion
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.fit import findings, snapshots
from selfexplain.experiments.fit.findings import (
    are_photographs,
    border_statistics,
    confident_mistakes,
    confused_pairs,
    doubted_labels,
    mistakes_of_pair,
    names,
    pictures,
    write_mislabels,
)
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import DataOptions, DeviceOptions, TrainConfig
from selfexplain.experiments.report import ReportConfig, write_report
from selfexplain.explanations import class_maps
from selfexplain.explanations.metrics.evidence import evidence_overlap, ring_share
from selfexplain.files import write_tensors
from selfexplain.training import TrainingOptions

FILES = ("mistakes", "confused", "shortcuts", "mislabels")


def photographs(count: int, seed: int) -> MemoryImages:
    """Noise in the colour of a class; the second and third class are nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(count) % 3
    colour_KC = torch.tensor([[230.0, 40, 40], [60, 120, 120], [60, 128, 112]])
    noise_NCHW = torch.randn(count, 3, 64, 80, generator=generator)
    shade_NC11 = 12 * torch.randn(count, 3, 1, 1, generator=generator)
    x_NCHW = colour_KC[labels_N][..., None, None] + 40 * noise_NCHW + shade_NC11
    listed = [f"/home/anna/photos/{k}/{i}.jpg" for i, k in enumerate(labels_N.tolist())]
    return MemoryImages(x_NCHW.clamp(0, 255).byte(), labels_N, listed)


def wrongly_labelled(images: MemoryImages) -> MemoryImages:
    labels_N = images.labels_N.clone()
    labels_N[[0, 12]] = 1  # of the first class, which nobody takes for the second
    return MemoryImages(images.images_NCHW, labels_N, images.names)


DATA = ImageData(
    train=wrongly_labelled(photographs(60, 0)),
    test=photographs(48, 1),
    class_names=("red <b>", "pond", "lake"),
)


def config_in(folder: Path, **training: object) -> TrainConfig:
    options = {"epochs": 2, "batch_size": 20, "lr": 0.1, "freeze": "all", **training}
    return TrainConfig(
        data=DataOptions(data="digits"),
        objective="standard",
        training=TrainingOptions(**options),  # type: ignore[arg-type]
        device=DeviceOptions(accelerator="cpu"),
        out=folder,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings") / "run"
    run_training(config_in(folder), data=DATA)
    return folder


@pytest.fixture(scope="module")
def said(run: Path) -> tuple[Tensor, Tensor]:
    kept = load_file(run / "predictions.safetensors")
    return kept["logits"], kept["labels"]


@pytest.fixture(scope="module")
def maps_NKHW(run: Path) -> Tensor:
    """Of all scored images and classes, by the finished model."""
    finished = load_run(run)
    x_NCHW = normalise(DATA.test.read(torch.arange(48)), finished.mean_C, finished.std_C)
    return class_maps(finished.objective.model.eval(), x_NCHW)


def test_the_surest_mistakes_are_kept_with_both_maps(
    run: Path, said: tuple[Tensor, Tensor], maps_NKHW: Tensor
) -> None:
    logits_NK, y_N = said
    found = load_file(run / "mistakes.safetensors")
    sure = logits_NK.softmax(dim=1).amax(dim=1).tolist()
    wrong = [i for i in range(48) if int(logits_NK[i].argmax()) != int(y_N[i])]
    wanted = sorted(wrong, key=lambda i: -sure[i])[:24]
    assert len(wanted) > 2
    for row, i in enumerate(wanted):
        y, answer = int(y_N[i]), int(logits_NK[i].argmax())
        assert found["classes"][row].tolist() == [y, answer]
        assert bytes(found["names"][row].tolist()).rstrip(b"\0").decode() == f"{y}/{i}.jpg"
        assert torch.equal(found["images"][row], DATA.test.read(torch.tensor([i]))[0])
        torch.testing.assert_close(found["maps"][row], maps_NKHW[i, [y, answer]])
        torch.testing.assert_close(
            found["probabilities"][row], logits_NK[i].softmax(dim=0)[[y, answer]]
        )


def test_confused_pairs_share_the_mean_overlap_of_their_mistakes(
    run: Path, said: tuple[Tensor, Tensor], maps_NKHW: Tensor
) -> None:
    logits_NK, y_N = said
    found = load_file(run / "confused.safetensors")
    answer_N = logits_NK.argmax(dim=1)
    for row, (a, b) in enumerate(found["pairs"].tolist()):
        forth = int(((y_N == a) & (answer_N == b)).sum())
        back = int(((y_N == b) & (answer_N == a)).sum())
        assert found["counts"][row].tolist() == [forth, back]
        mine = mistakes_of_pair(logits_NK, y_N, a, b)
        overlaps = []
        for i in mine.tolist():
            two_RHW = maps_NKHW[i, [int(y_N[i]), int(answer_N[i])]]
            if all(float(m.max()) >= 0.1 * float(two_RHW.abs().max()) for m in two_RHW):
                overlaps.append(float(evidence_overlap(two_RHW[:1], two_RHW[1:])))
        assert (found["looked"][row], found["explained"][row]) == (len(mine), len(overlaps))
        mean = sum(overlaps) / max(1, len(overlaps))
        assert float(found["overlap"][row]) == pytest.approx(mean, abs=1e-5)
        assert torch.equal(found["images"][row], DATA.test.read(mine[:1])[0])


def test_borders_are_those_of_the_answers(
    run: Path, said: tuple[Tensor, Tensor], maps_NKHW: Tensor
) -> None:
    found, answer_N = load_file(run / "shortcuts.safetensors"), said[0].argmax(dim=1)
    own_NHW = maps_NKHW[torch.arange(48), answer_N]
    share_N = ring_share(own_NHW)
    share_N[own_NHW.mean(dim=(1, 2)) < 0] = torch.nan  # more against it than for it
    for k in range(3):
        mine = share_N[(answer_N == k) & share_N.isfinite()]
        assert found["count"][k] == (len(mine) if len(mine) > 1 else 0)
        if len(mine) > 1:
            torch.testing.assert_close(found["share"][k], mine.mean())
            torch.testing.assert_close(found["error"][k], mine.std() / len(mine) ** 0.5)
    for k, share in zip(found["classes"].tolist(), found["shares"], strict=True):
        assert float(share) == pytest.approx(float(share_N[answer_N == k].nan_to_num(-1).max()))


def test_wrong_labels_are_doubted(run: Path) -> None:
    found = load_file(run / "mislabels.safetensors")
    told = [bytes(name.tolist()).rstrip(b"\0").decode() for name in found["names"]]
    assert set(told[:2]) == {"0/0.jpg", "0/12.jpg"}
    assert found["given"][:2].tolist() == [1, 1]
    assert found["suggested"][:2].tolist() == [0, 0]
    assert int(found["judged"]) == 60


def test_training_is_the_same_without_findings(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "are_photographs", lambda shape: False)
    run_training(config_in(tmp_path), data=DATA)
    assert not any((tmp_path / f"{name}.safetensors").exists() for name in FILES)
    a, b = (load_file(folder / "model.safetensors") for folder in (run, tmp_path))
    assert all(torch.equal(a[name], b[name]) for name in a)
    # Old runs are reported without them.
    page = write_report(ReportConfig(dirs=(tmp_path,))).read_text()
    assert "What it gets wrong" not in page
    assert "photographs that it was not trained on" in page


def test_findings_that_fail_end_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(findings, "class_maps", broken)
    monkeypatch.setattr(findings, "second_opinion", broken)
    with pytest.warns(UserWarning, match="missing from the report: no memory") as heard:
        result = run_training(config_in(tmp_path, epochs=1), data=DATA)
    told = [str(w.message) for w in heard if "no memory" in str(w.message)]
    assert len(told) == 4
    assert result["accuracy"] > 0
    assert not any((tmp_path / f"{name}.safetensors").exists() for name in FILES)


def test_labels_are_judged_before_all_layers_learn(tmp_path: Path, run: Path) -> None:
    run_training(config_in(tmp_path, freeze=None, head_epochs=1, epochs=1), data=DATA)
    a, b = (load_file(folder / "mislabels.safetensors") for folder in (run, tmp_path))
    assert torch.equal(a["probabilities"], b["probabilities"])


def test_the_page_says_it_in_plain_words(run: Path, said: tuple[Tensor, Tensor]) -> None:
    page = write_report(ReportConfig(dirs=(run,))).read_text()
    right = int((said[0].argmax(dim=1) == said[1]).sum())
    sentence = (
        f"Of 48 photographs that it was not trained on, {right} are classified correctly "
        f"({100 * right / 48:.1f} %)"
    )
    assert f'<span class="verdict">{sentence}</span></h1>' in page
    for title in (
        "The worst mistakes",
        "Classes that it confuses",
        "Labels that may be wrong",
        "Evidence at the border",
    ):
        assert f"<h3>{title}</h3>" in page
    assert page.count('class="strength"') == 1
    assert "red &lt;b&gt;" in page
    assert "red <b>" not in page
    assert "0/12.jpg" in page
    assert "/home/anna" not in page


def test_finetune_ends_with_the_sentence(
    run: Path, said: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_train", lambda *_: None)
    told = io.StringIO()
    config: Any = SimpleNamespace(as_training=lambda: SimpleNamespace(out=run), open=False)
    cli._finetune(config, Console(file=told, width=80))
    right = int((said[0].argmax(dim=1) == said[1]).sum())
    last = told.getvalue().splitlines()[-1]
    assert last.startswith(f"Of 48 photographs that it was not trained on, {right} are classified")


def test_a_damaged_record_is_told(run: Path, tmp_path: Path) -> None:
    for file in run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "mistakes.safetensors"
    whole = load_file(path)
    classes = whole["classes"].clone()
    classes[0, 0] = 3
    for changed in (
        {"classes": classes},
        {
            "classes": whole["classes"].repeat(1, 2),
            "probabilities": torch.rand(len(classes), 4),
            "maps": whole["maps"].repeat(1, 2, 1, 1),
        },
    ):
        write_tensors(path, whole | changed)
        with pytest.raises(InputError, match=r"mistakes\.safetensors is damaged"):
            write_report(ReportConfig(dirs=(tmp_path,)))


# The pure functions, at cases that the run does not have.


def test_pairs_come_by_the_share_of_their_images() -> None:
    generator = torch.Generator().manual_seed(0)
    y_N = torch.randint(4, (200,), generator=generator)
    logits_NK = torch.randn(200, 4, generator=generator)
    answer_N = logits_NK.argmax(dim=1)
    found = confused_pairs(logits_NK, y_N)

    def count(a: int, b: int) -> int:
        return sum(y == a and z == b for y, z in zip(y_N.tolist(), answer_N.tolist(), strict=True))

    shares = []
    for a, b, forth, back in found:
        assert (forth, back) == (count(a, b), count(b, a))
        assert forth >= back
        shares.append((forth + back) / sum(y in (a, b) for y in y_N.tolist()))
    assert shares == sorted(shares, reverse=True)
    assert len(found) == 6


def test_a_single_confusion_is_no_pair() -> None:
    assert confused_pairs(torch.eye(3)[[1, 1]], torch.tensor([0, 1])) == []
    assert confused_pairs(torch.eye(3)[[0, 1]], torch.tensor([0, 1])) == []


def test_nothing_wrong_is_no_mistake() -> None:
    assert len(confident_mistakes(torch.eye(3), torch.arange(3))) == 0


def test_doubted_labels_come_by_their_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NF, y_N = torch.randn(40, 6, generator=generator), torch.arange(40) % 4
    found = doubted_labels(x_NF, y_N, 4, most=5)
    p_NK = second_opinion(x_NF, y_N, 4)
    own = [float(p_NK[i, y_N[i]]) for i in range(40)]
    doubted = [i for i in range(40) if int(p_NK[i].argmax()) != int(y_N[i])]
    assert found["place"].tolist() == sorted(doubted, key=lambda i: own[i])[:5]
    assert int(found["doubted"]) == len(doubted)


@pytest.mark.parametrize(("features", "judged"), [(3, 40), (30, 20)])
def test_of_many_images_evenly_spread_ones_are_judged(
    features: int, judged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "WIDE", 20)
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 2, 2)
    train = MemoryImages(images, torch.arange(40) % 2, list(map(str, range(40))))
    x_NF = torch.randn(40, features, generator=generator)
    write_mislabels(tmp_path, train, x_NF, num_classes=2)
    found = load_file(tmp_path / "mislabels.safetensors")
    assert int(found["judged"]) == judged
    places = torch.linspace(0, 39, judged).round().long()
    wanted = doubted_labels(x_NF[places], train.labels_N[places], 2)
    told = [int(bytes(name.tolist()).rstrip(b"\0")) for name in found["names"]]
    assert told == places[wanted["place"]].tolist()
    assert found["images"][:, 0, 0, 0].tolist() == told


def test_the_only_image_of_a_class_is_not_doubted() -> None:
    x_NF = torch.cat([torch.zeros(6, 1), torch.ones(6, 1), torch.tensor([[0.0]])])
    y_N = torch.tensor([0] * 6 + [1] * 6 + [2])
    found = doubted_labels(x_NF + 0.01 * torch.arange(13)[:, None], y_N, 3)
    assert 12 not in found["place"].tolist()
    assert int(found["judged"]) == 12


def test_large_photographs_are_kept_small() -> None:
    images = MemoryImages(torch.zeros(1, 3, 300, 600, dtype=torch.uint8), torch.zeros(1))
    assert pictures(images, torch.tensor([0])).shape == (1, 3, 96, 192)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("", b""), ("in train row 7", b"in train row 7"), ("a/b/ä.png", "b/ä.png".encode())],
)
def test_names_are_folder_and_file(name: str, kept: bytes) -> None:
    images = MemoryImages(
        torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1), [name] if name else ()
    )
    assert bytes(names(images, torch.tensor([0]))[0].tolist()).rstrip(b"\0") == kept


def test_classes_without_evidence_have_no_share() -> None:
    found = border_statistics(torch.tensor([torch.nan, torch.nan, 0.5]), torch.tensor([0, 0, 1]), 2)
    assert found["count"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("shape", "wanted"), [((3, 64, 64), True), ((1, 64, 64), False), ((3, 63, 200), False)]
)
def test_what_counts_as_a_photograph(shape: tuple[int, int, int], wanted: bool) -> None:
    assert are_photographs(shape) is wanted
