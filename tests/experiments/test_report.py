"""Which folders the report knows, what it says of what is missing, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.compare.study_kd import StudyKDConfig, run_study
from selfexplain.experiments.fit.teacher import run_folder
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.read_runs import read_record, read_snapshots
from selfexplain.experiments.report import ReportConfig, write_report
from selfexplain.files import read_json
from selfexplain.training import TrainingOptions

RESULTS = ["Results", "Accuracy against cost"]
OF_ONE = "introspective, seed 0: "
LEARNED = [
    "Learning curves",
    "Reliability",
    "Classes that look alike to the model",
    "What the model explains to itself",
]
OF_SEVERAL = [*LEARNED[:2], *(OF_ONE + title for title in LEARNED[2:])]


def titles(path: Path) -> list[str]:
    """Headings, with the group that stands above them."""
    found, group = [], ""
    for line in path.read_text().splitlines():
        text = re.sub("<[^>]*>", "", line)
        if line.startswith('<p class="of"'):
            group = f"{text}: "
        if line.startswith("<h2"):
            found.append(group + text)
            group = ""
    return found


def first_line(path: Path) -> str:
    """The text of the page's first heading, which nothing stands before."""
    body = path.read_text().partition("<header>")[2]
    assert body.startswith("\n<h1>")
    return re.sub("<[^>]*>", "", body.partition("</h1>")[0]).strip()


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """A comparison that a test may break."""
    return Path(shutil.copytree(compared, tmp_path / "copied"))


def test_comparison(compared: Path, tmp_path: Path) -> None:
    path = write_report(ReportConfig(dirs=(compared,), out=tmp_path / "deep" / "r.html"))
    assert path == tmp_path / "deep" / "r.html"
    assert titles(path) == RESULTS + OF_SEVERAL
    assert first_line(path) == "No difference is proven"
    text = path.read_text()
    nav = re.sub(r"<[^>]*>|\s+", " ", text.partition("<nav")[2].partition("</nav>")[0])
    assert re.search("All runs +Results .* Reliability +introspective, seed 0 +Classes", nav)
    for label in ("Date", "Commit", "Images"):
        assert f"<dt>{label}</dt>" in text
    assert "digits, 100 to train, 359 to score, 8 x 8 pixels, grey, 10 classes" in text
    assert "introspective, seed 0, the first that learns by introspection" in text
    accuracy = json.loads((compared / "results.json").read_text())["summary"][1]["accuracy_mean"]
    assert f"{accuracy:.2f} ±" in text
    assert len(text) < 3_000_000


def test_same_folder_gives_the_same_file(compared: Path, tmp_path: Path) -> None:
    one, two = (
        write_report(ReportConfig(dirs=(compared,), out=tmp_path / name)).read_bytes()
        for name in ("1.html", "2.html")
    )
    assert one == two


def test_reliability_shows_the_ece_of_the_result(compared: Path, tmp_path: Path) -> None:
    folder = run_folder(compared, "introspective", 1)
    path = write_report(ReportConfig(dirs=(folder,), out=tmp_path / "r.html"))
    assert titles(path) == ["Results", *LEARNED]
    ece = json.loads((folder / "result.json").read_text())["ece"]
    assert f"seed 1, ECE {ece:.2f} %" in path.read_text()


def test_several_folders_make_one_page_named_apart(
    compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_folder(compared, name, 0) for name in ("standard", "introspective")]
    main(["report", *map(str, runs)])
    path = runs[0] / "report.html"
    assert capsys.readouterr().out.replace("\n", "") == f"Report: {path}"
    found = titles(path)
    assert len(found) == 10
    assert found[0] == "standard-seed0: Results"
    assert found[-1] == "introspective-seed0: What the model explains to itself"


def test_folders_of_one_name_are_numbered(compared: Path, tmp_path: Path) -> None:
    dirs = tuple(tmp_path / name / "run" for name in ("a", "b"))
    for folder in dirs:
        shutil.copytree(run_folder(compared, "standard", 0), folder)
    found = titles(write_report(ReportConfig(dirs=dirs)))
    assert (found[0], found[-1].split(":")[0]) == ("run (1): Results", "run (2)")


def test_old_runs_are_shown_without_what_they_did_not_leave(copied: Path) -> None:
    for folder in (copied / "runs").iterdir():
        shutil.rmtree(folder / "album")
        for name in ("predictions", "similarity"):
            (folder / f"{name}.safetensors").unlink()
    path = write_report(ReportConfig(dirs=(copied,)))
    assert titles(path) == RESULTS + LEARNED
    text = path.read_text()
    for sentence in ("no predictions", "no class similarities", "no recorded explanations"):
        assert f"The runs have {sentence}" in text


def test_unfinished_comparison_and_run(copied: Path) -> None:
    (copied / "results.json").unlink()
    run = run_folder(copied, "standard", 1)
    for name in ("result.json", "predictions.safetensors", "similarity.safetensors"):
        (run / name).unlink()
    text = write_report(ReportConfig(dirs=(copied,))).read_text()
    assert "3 of 4 runs are" in text
    assert "not finished: it has no scores" in write_report(ReportConfig(dirs=(run,))).read_text()


def test_a_lone_start_is_no_error(tmp_path: Path, compared: Path) -> None:
    shutil.copy(run_folder(compared, "standard", 0) / "run.json", tmp_path)
    assert "no epoch has ended" in write_report(ReportConfig(dirs=(tmp_path,))).read_text()


def test_gallery_without_introspection_shows_the_last_objective(copied: Path) -> None:
    for seed in (0, 1):
        shutil.rmtree(run_folder(copied, "introspective", seed) / "album")
    text = write_report(ReportConfig(dirs=(copied,))).read_text()
    assert "standard, seed 0, the last compared" in text


def as_control(folder: Path) -> None:
    """Make a run one of a control."""
    run = read_json(folder / "run.json")
    run["config"]["objective"] = "introspective:control=permuted"
    (folder / "run.json").write_text(json.dumps(run))


def test_a_control_is_shown_only_where_there_is_nothing_better(copied: Path) -> None:
    first, second = (run_folder(copied, "introspective", seed) for seed in (0, 1))
    as_control(first)
    text = write_report(ReportConfig(dirs=(copied,))).read_text()
    assert text.count("introspective, seed 1, the first that learns by introspection") == 1
    assert "the control permuted" not in text
    as_control(second)
    text = write_report(ReportConfig(dirs=(copied,))).read_text()
    assert text.count("that of the control permuted") == 2  # the gallery and the matrices


@pytest.mark.parametrize(
    ("spec", "control"),
    [
        ("introspective", "uniform"),
        ("mixup+introspective:weight=0.1,control=permuted", "permuted"),
        ("introspective:control=none", "none"),
        ("standard", "none"),
    ],
)
def test_control_of_a_record(spec: str, control: str, copied: Path) -> None:
    folder = run_folder(copied, "introspective", 0)
    run = read_json(folder / "run.json")
    run["config"]["objective"] = spec
    run["config"]["options"]["introspective"]["control"] = "uniform"
    (folder / "run.json").write_text(json.dumps(run))
    assert read_record(folder).control == control


def test_names_from_outside_are_escaped(copied: Path, tmp_path: Path) -> None:
    """Of classes, objectives and folders: the page has the one script of its own."""
    evil = '<script>$\\y$"x"'
    folder = Path(shutil.move(copied, tmp_path / evil))
    for run_json in folder.glob("runs/*/run.json"):
        run = read_json(run_json)
        run["images"]["class_names"] = [f"{evil}class{i}" for i in range(10)]
        run["config"]["objective"] += f":{evil}objective"
        run_json.write_text(json.dumps(run))
    results = read_json(folder / "results.json")
    for row in results["summary"]:
        row["objective"] += f":{evil}method"
    (folder / "results.json").write_text(json.dumps(results))
    run_of_one = run_folder(folder, "introspective", 0)
    text = write_report(ReportConfig(dirs=(folder, run_of_one))).read_text()
    assert text.count("<script") == 1
    escaped = "&lt;script&gt;$\\y$&#34;x&#34;"
    for name in ("class4", "objective", "method", ", introspective-seed0", ", introspective"):
        assert escaped + name in text


def test_study(tmp_path: Path) -> None:
    config = StudyKDConfig(
        data=DataOptions(data="digits", train_size=50),
        objectives=("standard", "distil_part"),
        seeds=(0,),
        training=TrainingOptions(epochs=1, batch_size=25),
        out=tmp_path / "study",
    )
    run_study(config)
    path = write_report(ReportConfig(dirs=(config.out,)))
    of_several = [title.replace("introspective", "distil_part") for title in OF_SEVERAL]
    assert titles(path) == ["Which part of the teacher carries the gain", *RESULTS, *of_several]


def test_record_holds_what_the_files_hold(compared: Path) -> None:
    folder = run_folder(compared, "introspective", 0)
    record = read_record(folder)
    assert (record.objective, record.seed, len(record.metrics)) == ("introspective", 0, 2)
    assert record.predictions is not None
    kept = load_file(folder / "predictions.safetensors")
    assert torch.equal(record.predictions.logits_NK, kept["logits"])
    snapshots = read_snapshots(folder, most=2)
    assert snapshots is not None
    assert [snapshot.epoch for snapshot in snapshots.after_epochs] == [1, 2]


def test_pages_of_logged_epochs_alone_are_shown(copied: Path) -> None:
    """In the order of numbers, of as many epochs as were wanted."""
    folder = run_folder(copied, "introspective", 0)
    run = read_json(folder / "run.json")
    run["config"]["training"]["epochs"] = 20000
    (folder / "run.json").write_text(json.dumps(run))
    for name in ("0003", "9998", "9999", "10000", "abc"):
        shutil.copy(
            folder / "album/epoch-0001.safetensors", folder / f"album/epoch-{name}.safetensors"
        )
    log = "".join(json.dumps({"epoch": epoch, "loss": 1.0}) + "\n" for epoch in (9998, 9999, 10000))
    (folder / "metrics.jsonl").write_text(log)
    snapshots = read_snapshots(folder)
    assert snapshots is not None
    assert [snapshot.epoch for snapshot in snapshots.after_epochs] == [9998, 9999, 10000]
    assert "after epoch 9998 of 20000" in write_report(ReportConfig(dirs=(folder,))).read_text()


def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(InputError, match="no folder is given"):
        ReportConfig(dirs=())
    with pytest.raises(InputError, match="named twice"):
        ReportConfig(dirs=(tmp_path, tmp_path))
    with pytest.raises(InputError, match="a folder; pass a file"):
        ReportConfig(dirs=(tmp_path,), out=tmp_path)
    with pytest.raises(InputError, match="contains no run and no comparison"):
        write_report(ReportConfig(dirs=(tmp_path,)))
    with pytest.raises(InputError, match="cannot be written"):
        write_report(ReportConfig(dirs=(copied,), out=copied / "results.json" / "r.html"))
    run = run_folder(copied, "standard", 0)
    save_file({"odd": torch.zeros(1)}, run / "predictions.safetensors")
    with pytest.raises(InputError, match=r"predictions\.safetensors cannot be read"):
        write_report(ReportConfig(dirs=(run,)))
    (run / "predictions.safetensors").unlink()
    (run / "metrics.jsonl").write_text("{\n")
    with pytest.raises(InputError, match=r"line 1 of .* is not the record of an epoch"):
        write_report(ReportConfig(dirs=(run,)))
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json is damaged: config is missing"):
        write_report(ReportConfig(dirs=(run,)))
    (copied / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"results\.json is damaged: config is missing"):
        write_report(ReportConfig(dirs=(copied,)))


def test_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", "absent"])
    assert stopped.value.code == 2
    assert "there is no folder absent" in capsys.readouterr().err
