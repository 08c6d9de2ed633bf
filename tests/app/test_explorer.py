"""Many images: which are found, in which order, and that the pictures are theirs."""

import io
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from selfexplain.app.explain import Explainer
from selfexplain.app.explorer import ANY, Explorer, Filter, explorer_of, select
from selfexplain.app.viewer import Viewer
from selfexplain.errors import InputError
from selfexplain.experiments.data import load
from selfexplain.experiments.options import DataOptions

Runs = tuple[Path, Path]
EVIL = "<script>alert(1)</script>"


def meant(i: int, y: int, said: list[int], wanted: Filter, sure: float) -> bool:
    """The definition, of one image."""
    wrong = [answer != y for answer in said]
    return (
        {
            "all": True,
            "wrong": wrong[0],
            "right": not wrong[0],
            "only_first": wrong[0] and not wrong[1],
            "only_second": wrong[1] and not wrong[0],
            "both": all(wrong),
            "differ": said[0] != said[1],
        }[wanted.which]
        and wanted.true in {ANY, y}
        and wanted.predicted in {ANY, said[0]}
        and wanted.least <= sure <= wanted.most
    )


def test_what_is_found_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.randint(3, (60,), generator=generator)
    predicted_RN = torch.randint(3, (2, 60), generator=generator)
    confidence_RN = (torch.rand(2, 60, generator=generator) * 100).round() / 100
    kinds = ("all", "wrong", "right", "only_first", "only_second", "both", "differ")
    for which, true, predicted, (least, most) in itertools.product(
        kinds, (ANY, 1), (ANY, 2), ((0.0, 1.0), (0.25, 0.75))
    ):
        wanted = Filter(which=which, true=true, predicted=predicted, least=least, most=most)  # type: ignore[arg-type]
        found = select(labels_N, predicted_RN, confidence_RN, wanted)
        sure = confidence_RN[0].double().mul(100).round().div(100).tolist()
        said = predicted_RN.T.tolist()
        assert sorted(found) == [
            i for i in range(60) if meant(i, int(labels_N[i]), said[i], wanted, sure[i])
        ]
        assert [sure[i] for i in found] == sorted((sure[i] for i in found), reverse=True)


def test_orders() -> None:
    labels, said, sure = torch.zeros(3), torch.zeros(1, 3), torch.tensor([[0.5, 0.9, 0.7]])
    places = {
        order: select(labels, said, sure, Filter(order=order))  # type: ignore[arg-type]
        for order in ("surest", "unsurest", "given")
    }
    assert places == {"surest": [1, 2, 0], "unsurest": [0, 2, 1], "given": [0, 1, 2]}


@pytest.fixture(scope="module")
def explorer(runs: Runs) -> Explorer:
    viewer = Viewer([Explainer(folder) for folder in runs])
    found = explorer_of(viewer)
    assert isinstance(found, Explorer)
    return found


def test_pictures_are_those_of_the_scored_images(explorer: Explorer) -> None:
    test = load(DataOptions(data="digits")).test
    assert torch.equal(explorer.labels_N, test.labels_N)
    for place in (0, 7, len(test) - 1):
        image_CHW = test.read(torch.tensor([place]))[0]
        assert torch.equal(explorer.example(place).image_CHW, image_CHW)
        kind, content = explorer.thumbnail(place)
        assert kind == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image_CHW[0].numpy())
    with pytest.raises(InputError, match="there is no image 359; pass 0 to 358"):
        explorer.example(359)


def test_the_page_lists_what_both_runs_said(explorer: Explorer, runs: Runs) -> None:
    logits = [load_file(folder / "predictions.safetensors")["logits"] for folder in runs]
    html = explorer.html([5, 3, 8], most=2)
    assert "3 of 359 images; the first 2 are listed" in html
    assert html.count('loading="lazy" src="thumbnail/') == 2
    tile = html.split("<button")[1]
    for logits_NK, series in zip(logits, (1, 7), strict=True):
        p_K = logits_NK[5].softmax(dim=0)
        mark = "" if int(p_K.argmax()) == int(explorer.labels_N[5]) else "✗ "
        said = f"</i><b>{mark}{int(p_K.argmax())}</b> <span>{100 * float(p_K.max()):.0f} %<"
        assert f"--sx-{series}){chr(34)}>{said}" in tile


def test_a_run_on_other_images_is_left_aside(runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "other"))
    kept = load_file(folder / "predictions.safetensors")
    kept["labels"] = kept["labels"].flip(0).contiguous()
    save_file(kept, folder / "predictions.safetensors")
    (folder / "result.json").unlink()  # which says what the predictions must be
    found = Explorer([Explainer(runs[0]), Explainer(folder)], ["a", "b"])
    assert found.names == ["a"]
    assert [value for _, value in found.choices()] == ["all", "wrong", "right"]
    first = Explorer([Explainer(folder)], ["b"])
    with pytest.raises(InputError, match="are not those that it was scored on"):
        first.thumbnail(0)
    assert "cannot be read any more" in first.trouble()
    assert str(tmp_path) not in first.trouble()
    assert found.trouble() == ""


def test_without_predictions_it_says_what_to_pass(runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "old"))
    (folder / "predictions.safetensors").unlink()
    said = explorer_of(Viewer([Explainer(folder)]))
    assert isinstance(said, str)
    assert "has kept no predictions" in said


def test_names_are_escaped(runs: Runs) -> None:
    found = Explorer([Explainer(runs[0])], [EVIL])
    found.class_names = (EVIL,) * 10
    html = found.html([0, 1], most=9)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 1 + 2 * 4
