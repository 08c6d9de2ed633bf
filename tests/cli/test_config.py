"""Options from files: what is printed, what runs leave, and files that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.command_line import refused

from selfexplain.cli import TYPES, main, parse
from selfexplain.command_line.config_files import commented
from selfexplain.experiments.options import FinetuneConfig, to_dict

RESULTS = Path(__file__).parents[2] / "results"
GENOTYPE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
NEEDED = {
    "train": ["--data", "digits"],
    "finetune": ["photos"],
    "compare": ["--data", "digits"],
    "study-kd": ["--data", "digits"],
    "explain": ["--run", "r", "--out", "a.png"],
    "search": ["--data", "digits"],
    "nas-study": ["--data", "digits", "--retrain", "1"],
    "retrain": ["--data", "digits", "--genotype", GENOTYPE],
    "lookup": ["--table", "t", "--genotype", "g"],
    "export": ["--run", "r", "--out", "o"],
    "table": ["d"],
    "demo": [],
}
"""Command -> what it cannot do without."""


@pytest.mark.parametrize("command", NEEDED)
def test_a_printed_file_changes_nothing(command: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(commented(command, TYPES[command]))
    words = NEEDED[command]
    assert parse([command, *words, "--config", str(file)]) == parse([command, *words])
    file.write_text(commented(command, TYPES[command], words))
    if command not in ("finetune", "table"):  # whose folders have no flag
        assert parse([command, "--config", str(file)]) == parse([command, *words])


def test_config_prints_what_was_typed_and_the_chosen_objective(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--data", "digits", "--objective", "own_mass:kappa=-2", "--lr", "1e-3", "--no-flip"]
    main(["config", "train", *words[:-1], "--flip", "False", "--loggers", "mlflow", "--resume"])
    text = capsys.readouterr().out
    assert "\nlr: 1e-3\n" in text
    assert "\nloggers: [mlflow]\n" in text
    assert "\nown_mass:\n  # Fraction of" in text
    assert "introspective:\n" not in text
    file = tmp_path / "run.yaml"
    file.write_text(text)
    config: Any = parse(["train", "--config", str(file)])
    assert (config.training.lr, config.data.flip, config.resume) == (1e-3, False, True)
    assert config.objective == "own_mass:kappa=-2"


YAML = """
data: digits
epochs: 7
seed: 3
augment: none
loggers: [tensorboard]
training:
  batch_size: 50
  weight-decay: 1e-4
introspective:
  tau: -0.5
  every: 2
own-mass.kappa: learned
compile: true
channels_last: false
flip: null
"""


def test_keys_may_be_flags_or_fields(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(YAML)
    config: Any = parse(["train", "--config", str(file), "--epochs", "9", "--no-compile"])
    assert config.training.epochs == 9
    assert config.training.batch_size == 50
    assert config.training.weight_decay == 1e-4
    assert not config.training.compile
    assert not config.training.channels_last
    assert config.options.introspective.tau == -0.5
    assert config.options.introspective.map_interval == 2
    assert config.options.own_mass.kappa == "learned"
    assert config.loggers == ("tensorboard",)
    assert config.seed == 3
    words = ["train", "--epochs", "9", f"--config={file}"]  # wherever it is typed, flags are on top
    assert parse([*words, "--no-compile"]) == config


def test_later_files_are_on_top_of_earlier_ones(tmp_path: Path) -> None:
    for name, text in (("a", "data: digits\nseeds: [1, 2]\nepochs: 3"), ("b", "seeds: [5]")):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [word for name in "ab" for word in ("--config", str(tmp_path / f"{name}.yaml"))]
    config: Any = parse(["compare", *files])
    assert (config.seeds, config.training.epochs) == ((5,), 3)


# Records of runs.


RECORDED = {
    "train": "--objective own_mass:kappa=0 --own-mass.alpha 0.5 --optimizer adamw "
    "--no-decay-vectors --validation 0.2 --keep-best --freeze-norm --model resnet20 "
    "--start-seed 4 --augment rand",
    "compare": "--objectives standard introspective:weight=0.1 --seeds 4 5 --introspective.every 3 "
    "--flip True --epochs 3 --lr 0.5 --robustness",
    "search": "--method lease --space darts --lambda 3 --coupling normalised --epochs 7 --base "
    "beta_darts --cells 5 --init-channels 8",
    "study-kd": "--seeds 1 --epochs 4",
    "retrain": "--auxiliary 0 --cells 2 --drop-path 0.2 --objective label_smoothing",
    "nas-study": "--methods darts2 lease:share=2 --seeds 0 1 --budget 3 5 --workers 2",
}


@pytest.mark.parametrize("command", RECORDED)
def test_a_run_is_repeated_from_its_own_folder(command: str, tmp_path: Path) -> None:
    config: Any = parse([command, *NEEDED[command], *RECORDED[command].split()])
    name = {"compare": "compare.json", "study-kd": "compare.json", "nas-study": "nas-study.json"}
    saved = to_dict(config, leave_out=("out", "resume"))
    file = tmp_path / name.get(command, "run.json")
    file.write_text(json.dumps({"schema": 1, "config": saved, "environment": {}}))
    for path in (file, tmp_path):
        again: Any = parse([command, "--config", str(path)])
        assert to_dict(again, leave_out=("out", "resume")) == saved
        assert again.out == config.out
    other: Any = parse([command, "--config", str(file), "--out", "elsewhere"])
    assert other.out == Path("elsewhere")


def test_a_fine_tuning_is_repeated_by_both_commands(tmp_path: Path) -> None:
    """Its record leaves out what runs had before, which is not what its command begins with."""
    words = ["--no-freeze-norm", "--head-epochs", "0", "--optimizer", "sgd", "--body-lr", "1"]
    config = parse(["finetune", "photos", *words])
    assert isinstance(config, FinetuneConfig)
    saved = to_dict(config.as_training(), leave_out=("out", "resume"))
    assert "freeze_norm" not in saved["training"]
    (tmp_path / "run.json").write_text(json.dumps({"config": saved}))
    again = parse(["finetune", "--config", str(tmp_path)])
    assert isinstance(again, FinetuneConfig)
    assert again.as_training() == parse(["train", "--config", str(tmp_path)])
    assert to_dict(again.as_training(), leave_out=("out", "resume")) == saved


OLD = sorted(RESULTS.glob("*/*/compare.json"))


@pytest.mark.parametrize(
    "file", OLD, ids=lambda path: f"{path.parent.parent.name}/{path.parent.name}"
)
def test_records_of_old_versions_are_read(file: Path) -> None:
    saved = json.loads(file.read_text())["config"]
    config: Any = parse(["compare", "--config", str(file)])
    again = to_dict(config)
    assert again["objectives"] == saved["objectives"]
    assert again["seeds"] == saved["seeds"]
    for part in ("data", "training"):
        assert saved[part].items() <= again[part].items()


# Files that cannot be used.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "the key epoch, which is no option of train (did you mean epochs?)"),
        ("training: {batchsize: 3}", "the key training.batchsize"),
        ("introspective: {ta: 3}", "did you mean introspective.tau"),
        ("seeds: [0]", "the key seeds, which is no option of train (did you mean seed?)"),
        ("epochs: 3\nepochs: 4", "the key epochs appears twice"),
        ("introspective: {tau: 1, tau: 2}", "the key tau appears twice"),
        ("epochs: [3", "is not YAML"),
        ("- epochs", "holds no options; pass lines such as epochs: 30"),
        ("3", "holds no options"),
        ("epochs: [3, 4]", "epochs is a list; pass one value"),
        ("epochs:", "epochs has no value"),
        ("resume: maybe", "resume is 'maybe'; pass true or false"),
        ("model: ''", "model is an empty text"),
        ("loggers: [[a]]", "loggers holds a list"),
        ("epochs: many", "--epochs is 'many'; pass a whole number"),
        ("augment: rnd", "--augment is rnd (did you mean rand?)"),
        ("epochs: 0", "--epochs is 0; pass a whole number of at least 1"),
        ("epochs: !!python/object:os.system {}", "is not YAML"),
        ("data: {data: digits, dat: 3}", "did you mean data"),
        ("a: " + "[" * 300, "is not YAML"),
    ],
)
def test_files_that_cannot_be_used(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    words = ("train", "--data", "digits", "--config", str(file))
    assert message in refused(capsys, *words)


def test_places_that_hold_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, message in (
        (str(tmp_path / "absent.yaml"), "there is no file"),
        (str(tmp_path), "holds no run.json"),
        ("--epochs", "--config is followed by no file"),
    ):
        assert message in refused(capsys, "train", "--data", "digits", "--config", word)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(capsys, "train", "--config", str(tmp_path / "bytes.yaml"))
    assert "followed by no file" in refused(capsys, "train", "--config")


def test_the_record_of_another_command_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse(["compare", "--data", "digits"])
    (tmp_path / "compare.json").write_text(json.dumps({"config": to_dict(config)}))
    said = refused(capsys, "train", "--config", str(tmp_path))
    assert "is the record of compare, and train has no option objectives" in said
    assert "pass it to selfexplain compare" in said
