"""Help pages at any width, near names of what is misspelt, and the flags that both know."""

import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import tyro
from tests.helpers.command_line import refused

from selfexplain.cli import EXAMPLES, GROUPS, TYPES, Command, main, parse
from selfexplain.command_line.flags import Flag, flags_of, negation
from selfexplain.objectives.options import ObjectiveOptions


def page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str, columns: int
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", TYPES)
def test_flags_are_those_of_the_parser(command: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(TYPES[command], config=(tyro.conf.HelptextFromCommentsOff,))
    theirs = {name for action in parser._actions for name in action.option_strings}
    ours = {name for flag in flags_of(TYPES[command]) for name in flag.names}
    assert {name for name in ours if name.startswith("-")} == theirs - {"-h", "--help"}


@pytest.mark.parametrize("command", TYPES)
def test_every_option_is_explained(command: str) -> None:
    for flag in flags_of(TYPES[command]):
        assert len(re.findall("[A-Za-z]{2,}", flag.about)) >= 3, flag.name
        assert flag.about.endswith((".", ")")), flag.name


@pytest.mark.parametrize("columns", [80, 100, 64, 40])
@pytest.mark.parametrize("command", TYPES)
def test_no_name_is_cut_and_no_line_too_long(
    command: str,
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = page(capsys, monkeypatch, command, "--help-all", columns=columns)
    words = text.split()
    for flag in flags_of(TYPES[command]):
        for word in (*flag.about.split(), flag.name):
            assert word in words or f"{word}," in words, word
        if flag.switch:
            assert negation(flag.name) in words
    for line in text.splitlines():
        # A line may be too long for one word that is, and the end of an example for none.
        assert len(line) <= columns or len(line.split()) <= 2 or columns == 40, line


@pytest.mark.parametrize("command", [*TYPES, ""])
def test_text_fills_the_lines(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No paragraph is broken where the source breaks it: the next word would not have fitted."""
    words = [command, "--help"] if command else ["--help"]
    lines = page(capsys, monkeypatch, *words, columns=80).splitlines()
    for line, below in pairwise(lines):
        indent = len(below) - len(below.lstrip())
        if indent >= 12 and line[indent - 2 : indent + 1].strip(" ") == line[indent : indent + 1]:
            assert len(line) + 1 + len(below.split()[0]) > 80


def shown(text: str) -> set[str]:
    return set(re.findall(r"^  --([a-z-]+)\.[a-z-]+", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("words", "objectives"),
    [
        (["train"], {"introspective"}),
        (["train", "--objective", "kd"], {"kd"}),
        (["train", "--objective=own_mass:kappa=2"], {"own-mass"}),
        (["train", "--objective", "mixup:alpha=0.5+cs_kd"], {"mixup", "cs-kd"}),
        (["train", "--objective", "mine.package:Class"], set()),
        (["compare"], {"label-smoothing", "introspective"}),
        (["compare", "--objectives", "standard", "kd", "dml", "--epochs", "3"], {"kd", "dml"}),
        (["finetune"], set()),
        (["study-kd"], {"distil-part"}),
        (["search"], set()),
    ],
    ids=lambda given: " ".join(sorted(given) if isinstance(given, set) else given),
)
def test_only_the_chosen_objectives_are_explained(
    words: list[str],
    objectives: set[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = page(capsys, monkeypatch, *words, "--help", columns=80)
    assert shown(text) == objectives
    assert ("--help-all" in text) == (words[0] != "search")
    if words == ["train"]:
        every = page(capsys, monkeypatch, *words, "--help-all", columns=80)
        names = set(ObjectiveOptions.__dataclass_fields__)
        assert shown(every) == {name.replace("_", "-") for name in names}


def test_all_commands_are_listed_with_examples_that_parse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {name for names in GROUPS.values() for name in names} == set(TYPES) == set(EXAMPLES)
    assert len(TYPES) == len(get_args(Command))
    text = page(capsys, monkeypatch, "--help", columns=80)
    assert all(re.search(rf"^  {name}\b", text, re.MULTILINE) for name in TYPES)
    for name, example in EXAMPLES.items():
        words = example.partition(" > ")[0].split()
        assert words[:2] == ["selfexplain", name]
        if name not in ("retrain", "report"):  # which look into files when they are parsed
            assert isinstance(parse(words[1:]), TYPES[name])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command trian (did you mean train?)"),
        (["compair", "--help"], "did you mean compare"),
        (["serach", "--data", "digits"], "did you mean search"),
        ([], "no command is given; pass one of train, finetune, compare"),
        (["train"], "train needs --data NAME: digits | parquet:DIR"),
        (["lookup", "--genotype", "x"], "lookup needs --table NAME: The benchmark"),
        (["xyz"], "there is no command xyz; selfexplain --help lists the commands"),
        (["--data", "digits"], "there is no option --data"),
        (["config", "trian"], "did you mean train"),
        (["config", "train", "--epoch", "3"], "did you mean --epochs"),
        (["train", "--data", "digits", "--epoch", "3"], "no option --epoch (did you mean --epochs"),
        (["train", "--data", "digits", "--batchsize=3"], "did you mean --batch-size"),
        (["train", "--data", "digits", "--batch_siz", "3"], "did you mean --batch-size"),
        (["train", "--own-mass.kapa", "1"], "did you mean --own-mass.kappa"),
        (["train", "--no-channels-lat"], "did you mean --no-channels-last"),
        (["compare", "--seed", "0"], "compare has no option --seed (did you mean --seeds?)"),
        (["train", "-e", "3"], "train has no option -e"),
        (["train", "--data", "digits", "--zzzzzz"], "no option --zzzzzz; selfexplain train"),
    ],
    ids=" ".join,
)
def test_near_names(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accelerator", "gpu"], "--accelerator is gpu; pass one of auto, cpu, cuda, mps"),
        (["--optimizer=adam"], "--optimizer is adam (did you mean adamw?); pass one of sgd"),
        (["--loggers", "mlflow", "wand"], "--loggers is wand (did you mean wandb?)"),
        (["--channels", "2"], "--channels is 2; pass one of 1, 3"),
        (["--epochs", "x"], "--epochs is 'x'; pass a whole number"),
        (["--epochs", "3.5", "--epochs", "3"], "--epochs is '3.5'; pass a whole number"),
        (["--lr", "1e-3x"], "--lr is '1e-3x'; pass a number"),
        (["--epochs"], "--epochs is followed by no value; pass INT"),
        (["--epochs", "--lr", "1"], "--epochs is followed by no value"),
        (["--introspective.every", "often"], "--introspective.map-interval is 'often'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_values_of_no_such_kind(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "train", "--data", "digits", *words)


def test_values_that_only_look_strange_are_taken() -> None:
    words = ["--lr", "None", "--own-mass.kappa", "learned", "--epochs", "0_7", "--loggers"]
    config: Any = parse(["train", "--data", "digits", *words, "--clip", "1E-3", "--flip", "None"])
    assert (config.training.epochs, config.training.clip, config.loggers) == (7, 1e-3, ())


def test_completion_knows_commands_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--tyro-write-completion", "bash", str(tmp_path / "selfexplain")])
    assert not ended.value.code
    text = (tmp_path / "selfexplain").read_text()
    assert all(word in text for word in ("nas-study", "--batch-size", "label-smoothing"))
    for words in (["--tyro-write-completion", "pwsh", "x"], ["--tyro-print-completion"]):
        assert "pass --tyro-write-completion SHELL FILE" in refused(capsys, *words)


def test_values_that_look_like_flags_are_values() -> None:
    assert parse(["train", "--data", "digits", "--own-mass.kappa", "-0.5"])
    assert parse(["train", "--data", "digits", "--introspective.tau=-1e-1"])


def test_a_flag_knows_what_it_is() -> None:
    found: dict[str, Flag] = {flag.name: flag for flag in flags_of(TYPES["train"])}
    assert found["--lr"].default is None
    assert found["--lr"].kind is float
    assert found["--loader-workers"].path == ("data", "workers")
    assert found["--introspective.map-interval"].also == ("--introspective.every",)
    assert found["--precision"].choices == ("fp32", "bf16", "fp16")
