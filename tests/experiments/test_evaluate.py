"""explain --evaluate: from a finished run to numbers, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfexplain.cli import main
from selfexplain.data import normalise
from selfexplain.experiments.data import read_images
from selfexplain.experiments.explain.evaluate import BoxedImage, boxes_in_model, read_boxes
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.explain.scores import (
    BETTER,
    CHUNK,
    map_scores,
    perturbation_for,
    shuffled,
)
from selfexplain.experiments.reading_options import QualityOptions
from selfexplain.explanations import class_maps, find_explained_layer
from selfexplain.explanations.metrics import deletion_auc, maps_of_classes, pointing_hits, upsampled

QUICK = ("--count", "12", "--steps", "4", "--samples", "4", "--neighbours", "2", "--values")
MAPS = set(BETTER) - {"pointing", "probability", "accuracy"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("standard", "introspective"):
        words = ("--epochs", "2", "--train-size", "200", "--batch-size", "50", "--image-size", "16")
        out = ("--objective", name, "--out", str(folder / name), "--accelerator", "cpu")
        main(["train", "--data", "digits", *words, *out])
    return [str(folder / "standard"), str(folder / "introspective")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def values_of(results: dict, run: str, kind: str, metric: str) -> list[float]:
    (row,) = [
        r for r in results["rows"] if (r["run"], r["kind"], r["metric"]) == (run, kind, metric)
    ]
    return row["values"]


def test_two_runs_are_compared_on_the_same_images(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    words = ["explain", "--evaluate", "--run", *runs, "--kind", "cam", "gradient", *QUICK]
    main([*words, "--out", str(out)])
    assert "randomisation ↓" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert results["schema"] == 1
    assert {(r["kind"], r["metric"]) for r in results["rows"]} == {
        *((kind, metric) for kind in ("cam", "gradient") for metric in MAPS),
        *(("", "probability"), ("", "accuracy")),
    }
    for row in results["rows"]:
        assert row["n"] == len(row["values"]) == len(set(results["images"]["index"])) == 12
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        assert row["std"] == pytest.approx(np.std(row["values"], ddof=1))
    stages = [s["stage"] for s in results["stages"] if (s["run"], s["kind"]) == (runs[0], "cam")]
    assert stages == ["head", "block3.0", "block2.0", "block1.0"]

    for row in results["differences"]:
        assert row["run"] == runs[1]
        a, b = (np.array(values_of(results, r, row["kind"], row["metric"])) for r in runs)
        assert row["mean"] == pytest.approx((b - a).mean(), abs=1e-12)
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]

    main([*words, "--out", str(out)])
    assert json.loads(out.read_text())["rows"] == results["rows"]


def test_the_true_class_of_the_drawn_test_images_is_explained(
    runs: list[str], tmp_path: Path
) -> None:
    from selfexplain.data import load_data

    out = tmp_path / "quality.json"
    main(["explain", "--evaluate", "--run", runs[1], *QUICK, "--out", str(out)])
    results = json.loads(out.read_text())
    assert results["differences"] == []
    index = torch.tensor(results["images"]["index"])
    run, test = load_run(Path(runs[1])), load_data("digits", image_size=16).test
    x, y = normalise(test.read(index), run.mean_C, run.std_C), test.labels_N[index]
    # the very floats that were scored: of two nearly equal pixels rounding decides which goes first
    layer = find_explained_layer(run.objective.model, x, kind="cam")
    maps = maps_of_classes(run.objective.model, x, y, kind="cam", layer=layer)
    of_all = class_maps(run.objective.model, x)[torch.arange(12), y]
    torch.testing.assert_close(maps, of_all, rtol=1e-4, atol=1e-5)
    expected = deletion_auc(run.objective.model, x, upsampled(maps, (16, 16)), y, steps=4)
    found = torch.tensor(values_of(results, runs[1], "cam", "deletion"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    p = run.objective.model(x).softmax(1)[torch.arange(12), y]
    found = torch.tensor(values_of(results, runs[1], "", "probability"))
    torch.testing.assert_close(found, p.detach(), atol=1e-5, rtol=0)


def test_chunks_of_images_share_one_randomised_network(runs: list[str]) -> None:
    model = load_run(Path(runs[0])).objective.model
    torch.manual_seed(0)
    x = torch.randn(1, 1, 16, 16).repeat(CHUNK + 1, 1, 1, 1)
    y = torch.zeros(CHUNK + 1, dtype=torch.long)
    options = QualityOptions(steps=1, samples=1, neighbours=1)
    values, stages = map_scores(model, x, y, kind="cam", layer=None, options=options)
    for name, rho in stages.items():
        assert abs(rho[0] - rho[-1]) < 1e-3, name
    torch.testing.assert_close(values["randomisation"], torch.stack(list(stages.values())).mean(0))


def test_pointing_game_on_files(runs: list[str], tmp_path: Path) -> None:
    """A wide image, of which the model sees the middle, and one of a class that is named."""
    rng = np.random.default_rng(0)
    for name, size in (("wide.png", (20, 40)), ("small.png", (16, 16))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / name)
    table = tmp_path / "boxes.csv"
    table.write_text(
        "image,x_min,y_min,x_max,y_max,class\n"
        "wide.png,10,0,20,20,\nsmall.png,0,0,16,8,3\nsmall.png,0,8,8,16,3\nwide.png,0,0,9,20,7\n"
    )
    run = load_run(Path(runs[0]))
    wide, small, outside = read_boxes(table, run.class_names)
    assert (wide.label, small.label, outside.label) == (None, 3, 7)
    assert boxes_in_model(wide, (1, 16, 16)).tolist() == [[0, 0, 8, 16]]
    assert small.boxes.tolist() == [[0, 0, 16, 8], [0, 8, 8, 16]]
    assert len(boxes_in_model(outside, (1, 16, 16))) == 0

    out = tmp_path / "quality.json"
    words = ["--evaluate", "--run", runs[0], *QUICK, "--boxes", str(table), "--tolerance", "1"]
    main(["explain", *words, "--out", str(out)])
    x = read_images([wide.path, small.path], run.shape_CHW)
    x = normalise(x, run.mean_C, run.std_C)
    k = torch.tensor([run.objective.model(x)[0].argmax().item(), 3])
    maps = upsampled(class_maps(run.objective.model, x)[torch.arange(2), k], (16, 16))
    boxes = [torch.tensor([[0.0, 0, 8, 16]]), small.boxes]
    expected = pointing_hits(maps, boxes, tolerance=1).float().tolist()
    results = json.loads(out.read_text())
    assert values_of(results, runs[0], "cam", "pointing") == expected


def test_a_run_without_square_images_keeps_its_boxes(tmp_path: Path) -> None:
    Image.new("L", (16, 12)).save(tmp_path / "a.png")
    case = BoxedImage(path=tmp_path / "a.png", boxes=torch.tensor([[4.0, 2.0, 20.0, 9.0]]))
    assert boxes_in_model(case, (1, 12, 16)).tolist() == [[4, 2, 16, 9]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "a.png"), "evaluate draws no images"),
        (("--out", "a.png"), "ends in .json"),
        (("--count", "0"), "count is 0"),
        (("--radius", "0"), "radius is 0"),
        (("--kind", "cam", "cam"), "names one twice"),
        (("--boxes", "absent.csv"), "absent.csv cannot be read"),
        (("--run", "absent"), "contains no finished run"),
        (("--layer", "absent"), "not in the model"),
    ],
)
def test_bad_combinations_are_one_sentence(
    runs: list[str], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "--evaluate", "--run", runs[0], *QUICK, *words)


def test_drawing_refuses_what_only_evaluation_takes(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = ("--images", "a.png", "--out", "a.svg")
    assert "pass --evaluate too" in refused(capsys, "--run", runs[0], *drawing, "--count", "5")
    assert "one run" in refused(capsys, "--run", *runs, *drawing)
    assert "one run" in refused(capsys, "--run", runs[0], *drawing, "--kind", "cam", "gradient")
    assert "ends in .png" in refused(capsys, "--run", runs[0], "--images", "a.png")
    assert "images is empty" in refused(capsys, "--run", runs[0], "--out", "a.png")


def test_runs_of_different_images_are_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "held_out")
    words = ("--epochs", "1", "--train-size", "100", "--batch-size", "50", "--image-size", "16")
    main(["train", "--data", "digits", *words, "--validation", "0.2", "--out", out])
    said = refused(capsys, "--evaluate", "--run", runs[0], out, *QUICK)
    assert "scored on different images" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x,y\na.png,0,0\n", "is not a table of boxes"),
        ("", "is not a table of boxes"),
        (
            "image,x_min,y_min,x_max,y_max\na.png,5,0,4,4\n",
            "line 2: [5.0, 0.0, 4.0, 4.0] is not a box",
        ),
        ("image,x_min,y_min,x_max,y_max\na.png,0,0,4\n", "line 2 is too short"),
        ("image,x_min,y_min,x_max,y_max,class\na.png,0,0,4,4,zebra\n", "no class 'zebra'"),
        ("image,x_min,y_min,x_max,y_max\nabsent.png,0,0,4,4\n", "there is no image"),
    ],
)
def test_bad_tables_of_boxes_are_one_sentence(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(text)
    words = ("--evaluate", "--run", runs[0], *QUICK, "--boxes", str(table))
    assert message in refused(capsys, *words)


def test_the_controls_of_maps_keep_what_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    squares, _ = perturbation_for("cam", (8, 8), generator)(torch.rand(2, 1, 8, 8))
    assert squares.sum((1, 2)).tolist() == [4.0, 4.0]  # a quarter of the side
    maps = torch.rand(2, 3, 4)
    assert torch.equal(
        shuffled(maps, generator).flatten(1).sort().values, maps.flatten(1).sort().values
    )
