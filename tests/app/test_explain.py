"""The numbers that the app shows, against class_maps and the objective themselves."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfexplain.app import Explainer, Viewer
from selfexplain.app import view as view_module
from selfexplain.app.explain import _facts, reading_other_maps
from selfexplain.app.viewer import read_examples
from selfexplain.data import normalise
from selfexplain.errors import InputError
from selfexplain.experiments.explain.explain import load_run
from selfexplain.explanations import KINDS, class_maps
from selfexplain.files import read_json
from selfexplain.introspection import Introspective, similarity_to_true
from selfexplain.introspection.target import zipf_target
from selfexplain.models import build_model

Runs = tuple[Path, Path]


@pytest.fixture(scope="module")
def explainers(runs: Runs) -> tuple[Explainer, Explainer]:
    return Explainer(runs[0]), Explainer(runs[1])


@pytest.fixture(scope="module")
def image(runs: Runs) -> Tensor:
    return load_file(runs[0] / "album" / "images.safetensors")["images"][0]


def normalised(folder: Path, image: Tensor) -> Tensor:
    run = load_run(folder)
    return normalise(image[None], run.mean_C, run.std_C)


@pytest.mark.parametrize("which", [0, 1])
def test_own_maps_and_target(
    which: int, explainers: tuple[Explainer, Explainer], runs: Runs, image: Tensor
) -> None:
    run, x = load_run(runs[which]), normalised(runs[which], image)
    shown = explainers[which].explain(image, "cam")
    probability_K = run.objective.model(x).softmax(dim=1)[0]
    torch.testing.assert_close(shown.probability_K, probability_K)
    y = torch.tensor([int(probability_K.argmax())])
    assert shown.predicted == int(y)
    assert torch.equal(shown.maps_KHW, class_maps(run.objective.model, x)[0])
    assert torch.equal(shown.target_K, run.objective.soft_target(x, y)[0])
    assert shown.target_K[shown.predicted] == 0
    # Zipf's target is a function of the similarities, so these are those it was made of.
    assert torch.equal(zipf_target(shown.similarity_K[None], y)[0], shown.target_K)
    assert shown.measure == "attribution"
    assert shown.own == (which == 0)
    assert not shown.probability_K.requires_grad
    assert not shown.similarity_K.requires_grad


@pytest.mark.parametrize(
    ("kind", "layer"),
    [("grad_cam", None), ("gradient", "block1"), ("gradient", None), ("input_x_gradient", None)],
)
def test_other_maps_are_compared_by_their_cosine(
    kind: str, layer: str | None, explainers: tuple[Explainer, Explainer], runs: Runs, image: Tensor
) -> None:
    model, x = load_run(runs[0]).objective.model, normalised(runs[0], image)
    shown = explainers[0].explain(image, kind, layer)
    maps = class_maps(model, x, kind=kind, layer=layer)
    y = torch.tensor([shown.predicted])
    assert torch.equal(shown.maps_KHW, maps[0])
    torch.testing.assert_close(shown.similarity_K, similarity_to_true(maps, y)[0])
    torch.testing.assert_close(shown.target_K, zipf_target(shown.similarity_K[None], y)[0])
    assert not shown.own


def test_every_kind_and_layer_that_is_offered_is_shown(
    explainers: tuple[Explainer, Explainer], image: Tensor
) -> None:
    viewer = Viewer(explainers)
    assert [kind for _, kind in viewer.kinds] == list(KINDS)
    assert viewer.layers(0, "cam") == [("last feature map", "")]
    assert ("block1", "block1") in viewer.layers(0, "grad_cam")
    for kind in KINDS:
        for _, layer in viewer.layers(0, kind):
            assert "sx-answer" in viewer.views((image, image), kind, [layer, ""], 12)[0]


def test_a_layer_named_for_cam_is_the_default_one_and_the_runs_own(
    runs: Runs, image: Tensor, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs[0], tmp_path / "named"))
    record = read_json(folder / "run.json")
    layer = Explainer(folder).layers("cam")[0]
    record["config"]["objective"] = f"introspective:kind=cam,layer={layer}"
    (folder / "run.json").write_text(json.dumps(record))
    viewer = Viewer([Explainer(folder)])
    assert viewer.explainers[0].own == ("cam", layer)
    assert viewer.own_layer(0, "cam") in [name for _, name in viewer.layers(0, "cam")]
    shown = viewer.explainers[0].explain(image, "cam", viewer.own_layer(0, "cam") or None)
    assert shown.own
    assert torch.equal(shown.maps_KHW, viewer.explainers[0].explain(image, "cam", layer).maps_KHW)


def test_a_layer_that_cannot_be_explained_is_refused(
    explainers: tuple[Explainer, Explainer], image: Tensor
) -> None:
    with pytest.raises(InputError, match="layer 'head' returns"):
        explainers[0].explain(image, "gradient", "head")


def test_options_of_the_run_are_kept_for_other_maps() -> None:
    model = build_model("small_cnn", num_classes=4, in_channels=1)
    own = Introspective(model, exponent=2.0, control="weights", aggregation="class")
    other = reading_other_maps(own, "grad_cam", "block1")
    assert (other.options.exponent, other.options.measure) == (2.0, "cosine")
    assert (other.options.control, other.options.aggregation) == ("none", "instance")
    votes = reading_other_maps(Introspective(model, similarity="votes"), "gradient", None)
    assert votes.options.measure == "votes"


def test_threads_get_the_same_answers(
    explainers: tuple[Explainer, Explainer], image: Tensor
) -> None:
    """Hooks of two threads in one model would mix their activations."""
    images = [image, image.flip(2), image.flip(1), 255 - image]
    kinds = ["grad_cam", "gradient"]
    alone = [explainers[1].explain(each, kind).maps_KHW for each in images for kind in kinds]
    together: dict[int, Tensor] = {}

    def work(number: int, each: Tensor, kind: str) -> None:
        together[number] = explainers[1].explain(each, kind).maps_KHW

    pairs = [(each, kind) for each in images for kind in kinds]
    threads = [
        threading.Thread(target=work, args=(number, *pair)) for number, pair in enumerate(pairs * 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(len(threads)):
        torch.testing.assert_close(together[number], alone[number % len(pairs)])


def test_a_run_that_diverged_says_so(runs: Runs, image: Tensor, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "diverged"))
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"] = torch.full_like(weights["head.bias"], float("nan"))
    save_file(weights, folder / "model.safetensors")
    (folder / "result.json").unlink()  # which says what the weights must be
    viewer = Viewer([Explainer(folder)])
    assert "not finite" in viewer.views((image,), "cam", [""], 12)[0]


def test_examples_are_the_kept_images(runs: Runs, image: Tensor) -> None:
    names = load_run(runs[0]).class_names
    examples = read_examples(runs[0], names)
    album = load_file(runs[0] / "album" / "images.safetensors")
    assert [each.class_name for each in examples] == [names[y] for y in album["labels"].tolist()]
    assert torch.equal(examples[0].image_CHW, image)
    assert read_examples(runs[1], names) == []


def test_examples_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "album" / "images.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"images\.safetensors cannot be read"):
        read_examples(tmp_path, ("a",))
    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    save_file({"images": images, "labels": torch.tensor([7])}, path)
    with pytest.raises(InputError, match=r"images\.safetensors belongs to another run"):
        read_examples(tmp_path, ("a",))


def test_runs_with_other_classes_and_sizes_are_compared_with_a_word(
    runs: Runs, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "standard"))
    record = read_json(folder / "run.json")
    record["images"]["class_names"][0] = "<b>nought</b>"
    record["images"]["shape"] = [1, 8, 10]
    (folder / "run.json").write_text(json.dumps(record))
    viewer = Viewer([Explainer(runs[1]), Explainer(folder)])
    assert viewer.names() == ["standard (1)", "standard (2)"]
    heading = viewer.heading()
    assert "only standard (1) knows 0" in heading
    assert "only standard (2) knows &lt;b&gt;nought&lt;/b&gt;" in heading
    fitted = viewer.fit(read_examples(runs[0], viewer.explainers[0].class_names)[0].image())
    shown, refused = viewer.views(fitted, "cam", ["", ""], 12)
    assert "sx-answer" in shown
    assert "of the other run too" not in shown
    assert "pass an image of that size" in refused


def test_runs_are_told_apart_by_what_they_learned(runs: Runs, tmp_path: Path) -> None:
    """By objective, else by seed, else by folder; data and accuracy stand beside the name."""
    folder = Path(shutil.copytree(runs[1], tmp_path / "again"))
    one, other, again = Explainer(runs[0]), Explainer(runs[1]), Explainer(folder)
    assert Viewer([one, other]).names() == ["introspective", "standard"]
    assert Viewer([other, again]).names() == ["standard (standard)", "standard (again)"]
    again.facts = (*again.facts[:-1], "seed 7")
    assert Viewer([other, again]).names() == ["standard, seed 0", "standard, seed 7"]
    accuracy = read_json(runs[0] / "result.json")["accuracy"]
    assert one.facts == ("digits", f"{accuracy:.1f} % correct", "seed 0")
    headings = Viewer([one, other]).headings()
    assert f"digits, {accuracy:.1f} % correct, seed 0" in headings[0]
    assert ["--sx-1" in headings[0], "--sx-7" in headings[1]] == [True, True]  # as in the report
    config = {"data": {"data": "folder:/home/someone/pets"}, "seed": 1}
    assert list(_facts(tmp_path, config)) == ["pets", "seed 1"]
    assert list(_facts(tmp_path, {})) == []


def test_both_runs_are_drawn_on_one_scale(
    explainers: tuple[Explainer, Explainer], image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    plain = view_module.map_uri

    def heard(map_HW: Tensor, scale: float) -> str:
        scales.append(scale)
        return plain(map_HW, scale)

    monkeypatch.setattr(view_module, "map_uri", heard)
    html = Viewer(explainers).views((image, image), "cam", ["", ""], 12)
    greatest = max(float(each.explain(image, "cam").maps_KHW.abs().max()) for each in explainers)
    assert scales == [greatest] * 20
    assert all("all on one scale, that of the other run too" in each for each in html)
    # The longest bar of both is a whole one, or reaches the end from the middle.
    widths = re.findall(r"width:([\d.]+)", "".join(each.split("Similar expl")[1] for each in html))
    assert max(map(float, widths)) in {50.0, 100.0}
    alone = Viewer(explainers[:1]).views((image,), "cam", [""], 12)
    assert "other run" not in alone[0]
