"""Every number of every option has limits, and what is outside of them is named as it was typed."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from selfexplain import cli
from selfexplain.cli import flag_of
from selfexplain.errors import InputError, import_failure
from selfexplain.experiments.fit.pretrained import from_pretrained
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.objectives import MIXERS, OBJECTIVES, resolve
from selfexplain.experiments.options import DataOptions, TrainConfig, run_name
from selfexplain.files import shortened
from selfexplain.limits import Count, Limits, OptionError, Positive, check_options
from selfexplain.objectives.options import ObjectiveOptions

COMMANDS = {each.__metadata__[0].name: get_args(each)[0] for each in get_args(cli.Command)}
DATA = DataOptions(data="digits")
GIVEN: dict[str, Any] = {
    "data": DATA,
    "genotype": "published:DARTS_V2",
    "table": "t",
    "out": Path("b"),
}
"""Values of the fields that have no default."""
GIVEN_TO = {
    "LookupConfig": {"genotype": ("g",)},
    "ExportConfig": {"run": Path("a")},
    "FinetuneConfig": {"data": DATA, "photos": None},
    "NASStudyConfig": {"table": "t"},
    "ExplainConfig": {"run": (Path("a"),), "evaluate": True},
    "ReportConfig": {"dirs": (Path(),)},
    "AppConfig": {"run": (Path("a"),)},
}
ABSURD = (math.nan, math.inf, -math.inf, -1e300, 1e300, 10**400, -(10**400), True, "3")


def inside(hint: Any) -> Any:
    """A field's own type, without what it is wrapped in."""
    while args := [a for a in get_args(hint) if a not in (type(None), Ellipsis)]:
        hint = args[0]
    return hint


def numbers_of(options: type) -> Iterator[tuple[type, str]]:
    """Dataclass and field of every number of a configuration, and of those inside it."""
    for name, hint in get_type_hints(options).items():
        kind = inside(hint)
        if dataclasses.is_dataclass(kind):
            yield from numbers_of(kind)  # type: ignore[arg-type]
        elif kind in (int, float) and name != "channels":  # which has two values to choose from
            yield options, name


def with_defaults(options: type) -> Any:
    """An instance that its own checks let through."""
    needed = [
        f.name
        for f in dataclasses.fields(options)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    given = {name: GIVEN[name] for name in needed} | GIVEN_TO.get(options.__name__, {})
    return options(**given)


NUMBERS = list(dict.fromkeys(n for config in COMMANDS.values() for n in numbers_of(config)))


@pytest.mark.parametrize(("owner", "name"), NUMBERS, ids=lambda v: getattr(v, "__name__", v))
def test_absurd_numbers_are_refused(owner: type, name: str) -> None:
    """Of every number there is: one that is added is looked at without being named here."""
    sound = with_defaults(owner)
    several = isinstance(getattr(sound, name), tuple)
    for value in ABSURD:
        with pytest.raises(OptionError) as refused:
            dataclasses.replace(sound, **{name: (value,) if several else value})
        said = str(refused.value)
        assert (refused.value.owner, refused.value.field) == (owner, name)
        assert said.startswith(f"{name.rstrip('_')} is ")
        assert "; pass a" in said
        assert len(said) < 200


def test_flags_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(NUMBERS) > 80
    for command, config in COMMANDS.items():
        with pytest.raises(SystemExit):
            cli.parse([command, "--help-all"])
        told = capsys.readouterr().out
        for owner, name in dict.fromkeys(numbers_of(config)):
            assert flag_of(owner, name) in told, (command, owner, name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train --data digits --lr 1e300", "--lr is 1e+300; pass a number above 0"),
        ("train --data digits --momentum 2", "--momentum is 2; pass a number above 0 and below 1"),
        ("train --data digits --kd.alpha nan", "--kd.alpha is nan; pass a finite number from 0"),
        ("train --data digits --loader-workers -1", "--loader-workers is -1; pass a whole number"),
        (
            "train --data digits --flip False --alternate-flip",
            "--alternate-flip flips images, and flip is False; leave out one of them",
        ),
        (
            "search --data digits --image-cache a",
            "workers, clusters and --image-cache are for several searches; pass --seeds 0 1",
        ),
        ("train --data digits --image-size 1000000", "--image-size is 1000000; pass a whole"),
        ("explain --run a --evaluate --radius nan", "--radius is nan; pass a finite number above"),
        ("explain --run a --evaluate --tolerance nan", "--tolerance is nan; pass a finite number"),
        ("search --data digits --lambda nan", "--lambda is nan; pass a finite number of at least"),
        (
            "search --data folder:absent --space pcdarts --init-channels 4",
            "--init-channels is 4; for pcdarts pass a multiple of 8",
        ),
        ("search --data digits --space darts --cells 2", "--cells is 2, but a darts supernet of"),
        ("compare --data digits --seeds 0 -1", "--seeds is -1; pass a whole number from 0 to 2^63"),
        ("train --data digits --out=", "--out is followed by an empty string; pass a value"),
        (
            "train --data digits --loggers mlflow mlflow",
            "--loggers names one twice; pass each once",
        ),
        ("compare --data digits --seeds 0 00", "--seeds names one twice; pass each once"),
        ("compare --data digits --seeds", "--seeds is empty; pass at least one"),
        ("compare --data digits --objectives zipf zipf", "--objectives names one twice"),
        ("compare --data digits --tuner optuna", "--tuner is optuna, but nothing is tuned"),
        ("compare --data digits --tune 2 --finished-only", "--finished-only makes no table"),
        ("compare --data digits --workers 2 --devices 2", "--devices is 2, and such a run has"),
        ("search --data digits --seeds 1 1", "--seeds names one twice; pass each once"),
        ("search --data digits --epochs 3 --warmup-epochs 3", "--warmup-epochs is 3; pass 0 to 2"),
        ("search --data digits --cells 501", "--cells is 501; pass a whole number from 1 to 500"),
        ("explain --run a --images b", "--out is missing; pass a file that ends in .png"),
        ("explain --run a a --evaluate", "--run names one twice; pass each once"),
        ("report . --out .", "--out is ., a folder; pass a file that ends in .html"),
        (f"report {'a' * 300}", "DIRS is a path of 300 bytes, with a name of 300"),
        (f"train --data folder:{'a' * 300}", f"the folder {'a' * 300} does not exist"),
        (f"train --data parquet:{'a' * 300}", f"the folder {'a' * 300} does not exist"),
        (
            "train --data folder:~nobody-of-this-name/a",
            "the folder ~nobody-of-this-name/a does not",
        ),
        ("report", None),
    ],
)
def test_sentences_name_what_was_typed(
    arguments: str, sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 2
    if sentence is not None:
        assert capsys.readouterr().err.startswith(f"selfexplain: {sentence}")


def test_an_empty_argument_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--data", "digits", "--out", ""], ["report", ""]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert "is followed by an empty string" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*OBJECTIVES, *MIXERS])
def test_options_in_a_spec_are_checked(name: str) -> None:
    """By name, before there is a model: twice the same, unknown ones and absurd values."""
    end = "+standard" if name in MIXERS else ""
    options = getattr(ObjectiveOptions(), name, None)
    fields = [] if options is None else list(get_type_hints(type(options)).items())
    for field, hint in fields:
        if inside(hint) not in (int, float):
            continue
        for value in ("nan", "inf", "-1e300", "1e300", "1" + "0" * 400, "", "0x1", "1,5"):
            with pytest.raises(InputError, match=name) as refused:
                resolve(f"{name}:{field}={value}{end}", ObjectiveOptions())
            assert field in str(refused.value) or "no option" in str(refused.value)
        with pytest.raises(InputError, match="gives an option twice"):
            resolve(f"{name}:{field}=1,{field}=1{end}", ObjectiveOptions())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("standard:", "'standard:' has a separator without an option"),
        ("zipf:exponent=1,", "has a separator without an option"),
        ("mixup:+standard", "'mixup:' has a separator without an option"),
        ("zipf:exponent", "exponent of zipf has no value; pass it as exponent=VALUE"),
    ],
)
def test_options_that_a_spec_leaves_out(spec: str, sentence: str) -> None:
    """Else `standard` and `standard:` could be compared with each other."""
    with pytest.raises(InputError, match=sentence):
        resolve(spec, ObjectiveOptions())


def test_a_mixer_stands_once() -> None:
    with pytest.raises(InputError, match="names a mixer twice; pass each once"):
        resolve("mixup+mixup:alpha=0.5+standard", ObjectiveOptions())


def test_limits_in_words_and_in_force() -> None:
    @dataclass
    class Options:
        rate: Positive = 1.0
        steps: Count | None = None
        share: float = 0.0

    check_options(Options(rate=1e30, steps=2**31 - 1, share=-1e30))
    for bad, sentence in (
        (Options(rate=0), "rate is 0; pass a number above 0"),
        (Options(rate=2e30), "rate is 2e+30; pass a number above 0, of a size of at most 1e+30"),
        (Options(share=-2e30), "share is -2e+30; pass a number, of a size of at most 1e+30"),
        (Options(steps=0), "steps is 0; pass a whole number of at least 1"),
        (Options(steps=2.0), "steps is '2.0'; pass a whole number of at least 1"),  # type: ignore[arg-type]
        (Options(steps=10**400), "steps is a number of 401 digits; pass a whole number of at"),
    ):
        with pytest.raises(OptionError) as refused:
            check_options(bad)
        assert str(refused.value).startswith(sentence)
    assert Limits(least=0, most=1).words("number") == "a number from 0 to 1"


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (Path("a" * 256), "with a name of 256"),
        (Path("/".join(["ab"] * 2000)), "a path of 5999 bytes"),
        (Path("a\0b"), "a NUL in it"),
        (Path("\N{SNOWMAN}" * 90), "with a name of 270"),
    ],
)
def test_paths_that_no_file_system_has(out: Path, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence) as refused:
        TrainConfig(data=DATA, out=out)
    assert refused.value.owner is TrainConfig


def test_long_names_are_cut_and_told_apart() -> None:
    one, other = (run_name(f"introspective:layer={'a' * 300}{end}", 0) for end in "xy")
    assert one != other
    assert max(len(one.encode()), len(shortened("\N{SNOWMAN}" * 300).encode())) <= 220
    assert run_name("introspective:weight=0.1", 2) == "introspective_weight-0.1-seed2"
    config = TrainConfig(data=DataOptions(data=f"folder:/{'b' * 250}"), model="a/b:" + "c" * 300)
    assert len(config.out.name.encode()) <= 220
    assert len(config.out.parts) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "standart"}, "there is no objective 'standart'"),
        ({"objective": "kd:alpha=7"}, "kd: alpha is 7; pass a number from 0 to 1"),
        ({"model": "resnet21"}, "there is no model 'resnet21'"),
        ({"model": "no_such_module:make"}, "cannot be imported"),
        ({"model": "math:pi"}, "'math:pi' is a float; pass package.module:factory"),
        ({"objective": "kd", "teacher": Path("absent")}, "absent contains no finished run"),
        ({"teacher": Path("absent")}, "leave out --teacher"),
    ],
)
def test_the_impossible_is_refused_before_data_are_read(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    """The data do not exist, which would be told of if they were read."""
    data = DataOptions(data=f"folder:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match=sentence):
        run_training(TrainConfig(data=data, out=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "where",
    ["", "folder/", "/absent", "a/b/c", "~", "a" * 300, "a/" + "b" * 300, "a--b/c", "a/..", "\0"],
)
def test_names_that_the_hub_has_not(where: str) -> None:
    """Refused here: nothing is asked of the hub."""
    with pytest.raises(InputError, match="there is no folder"):
        from_pretrained(where)


def test_a_broken_package_is_told_from_a_missing_one() -> None:
    try:
        try:
            raise OSError("libcudart.so.12: cannot open shared object file")
        except OSError as error:
            raise RuntimeError("could not import module") from error
    except RuntimeError as error:
        told = str(import_failure(error, "timm:resnet18", "timm", "pip install timm"))
    assert "libcudart.so.12: cannot open" in told
    assert "installed but does not import" in told
    assert "pip install" not in told
    inner = ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    told = str(import_failure(inner, "timm:resnet18", "timm", "pip install timm"))
    assert "No module named 'torchvision'" in told
    missing = ModuleNotFoundError("No module named 'timm'", name="timm")
    told = str(import_failure(missing, "timm:resnet18", "timm", "pip install timm"))
    assert told.endswith("needs the package timm, which is not installed; pip install timm")


def test_long_numbers_are_written_short() -> None:
    assert Limits(least=0, most=2**63 - 1).words("number") == "a number from 0 to 2^63 - 1"
    assert Limits(above=0.5, most=10**400).words("number").endswith("a number of 401 digits")
