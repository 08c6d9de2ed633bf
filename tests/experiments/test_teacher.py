"""Teachers: trained once, found again, waited for, or given."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.two_processes import start_two
from torch import nn

from selfexplain.errors import InputError
from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.data import load, prepare
from selfexplain.experiments.fit.teacher import Renormalised, load_teacher
from selfexplain.experiments.fit.train import run_training
from selfexplain.experiments.options import CompareConfig, DataOptions, TrainConfig, to_dict
from selfexplain.files import read_json
from selfexplain.models import build_model
from selfexplain.report import comparison_markdown
from selfexplain.training import TrainingOptions

DATA = DataOptions(data="digits", train_size=100)


def config(out: Path, objective: str = "kd", epochs: int = 2, **more: object) -> TrainConfig:
    training = TrainingOptions(epochs=epochs, batch_size=50)
    return TrainConfig(data=DATA, out=out, objective=objective, training=training, **more)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of kd that trained its teacher."""
    out = tmp_path_factory.mktemp("taught") / "run"
    run_training(config(out))
    return out


def test_teacher_is_a_standard_run_from_a_start_of_its_own(taught: Path, tmp_path: Path) -> None:
    plainly = config(tmp_path / "plain", "standard", start_seed=2**40)
    run_training(plainly)
    teacher = taught / "teachers" / "standard-seed0"
    assert same(plainly.out, teacher)
    record = json.loads((teacher / "run.json").read_text())["config"]
    assert record == to_dict(plainly, leave_out=("out", "resume"))
    # Another start than the student's, on the same images.
    run_training(config(tmp_path / "student", "standard"))
    assert not same(tmp_path / "student", teacher)
    images = [json.loads((p / "run.json").read_text())["images"] for p in (taught, teacher)]
    assert images[0] == images[1]


def test_given_teacher_teaches_as_the_trained_one_does(taught: Path, tmp_path: Path) -> None:
    teacher = taught / "teachers" / "standard-seed0"
    run_training(config(tmp_path / "run", teacher=teacher))
    assert same(taught, tmp_path / "run")
    assert not (tmp_path / "run" / "teachers").exists()


def test_progress_counts_the_teachers_steps(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_training(config(tmp_path / "run"), on_step=lambda *step: seen.append(step))
    assert seen == [(i, 8) for i in range(1, 9)]  # twice two epochs of two steps


def test_stopped_while_the_teacher_trains_it_continues_to_the_same_weights(
    taught: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    again = config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_training(again, on_step=stop)
    seen: list[int] = []
    run_training(again, on_step=lambda done, total: seen.append(done))
    assert seen == [3, 4, 5, 6, 7, 8]
    assert same(taught, again.out)


def _train(rank: int, folder: Path, objectives: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    own = config(folder / objectives[rank], objectives[rank], epochs=6)
    run_training(own, teachers=folder / "teachers")


def test_two_processes_that_need_one_teacher_train_it_once(tmp_path: Path) -> None:
    start_two(_train, tmp_path, ("kd", "kd:alpha=0.5"))
    log = (tmp_path / "teachers" / "standard-seed0" / "metrics.jsonl").read_text()
    assert [json.loads(line)["epoch"] for line in log.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert all((tmp_path / name / "result.json").exists() for name in ("kd", "kd:alpha=0.5"))


def test_comparison_shares_teachers_and_counts_them(tmp_path: Path) -> None:
    compare = CompareConfig(
        data=DATA,
        out=tmp_path / "c",
        objectives=("standard", "kd", "kd:alpha=0.5"),
        seeds=(0,),
        training=TrainingOptions(epochs=1, batch_size=50),
    )
    rows = run_comparison(compare)["rows"]
    assert [p.name for p in (compare.out / "teachers").glob("[!.]*")] == ["standard-seed0"]
    assert rows[0]["total_cost"] == rows[0]["cost"] == 1
    assert [row["total_cost"] for row in rows[1:]] == [row["cost"] + 1 for row in rows[1:]]

    given = dataclasses.replace(
        compare, out=tmp_path / "given", teacher=compare.out / "teachers" / "standard-seed0"
    )
    results = run_comparison(given)
    assert [row["total_cost"] for row in results["rows"]] == [r["cost"] for r in results["rows"]]
    assert not (given.out / "teachers").exists()
    assert same(compare.out / "runs" / "kd-seed0", given.out / "runs" / "kd-seed0")
    assert (
        "teacher"
        not in json.loads((given.out / "runs" / "standard-seed0" / "run.json").read_text())[
            "config"
        ]
    )


def test_table_says_what_the_total_is() -> None:
    row = {"objective": "kd", "n": 1, "accuracy_mean": 90.0, "accuracy_std": None}
    row |= {"difference_mean": 0.0, "difference_ci95": None, "nll_mean": 0.3, "nll_std": None}
    row |= {"ece_mean": 2.0, "ece_std": None, "cost": 1.5, "total_cost": 2.5}
    trained = comparison_markdown({"summary": [row], "config": {}})
    assert "| 1.50 | 2.50 |" in trained
    assert "with the training of its teachers" in trained
    assert "counted as 0" not in trained
    given = comparison_markdown({"summary": [row], "config": {"teacher": "runs/large"}})
    assert "given teacher counted as 0" in given


def test_configurations_without_a_teacher_stay_what_they_were() -> None:
    old = TrainConfig(data=DATA, out=Path("out"))
    assert not {"teacher", "start_seed"} & to_dict(old).keys()
    assert to_dict(dataclasses.replace(old, teacher=Path("runs/a")))["teacher"] == "runs/a"


def test_renormalised_model_sees_the_pixels_it_learned() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(4, 3, 8, 8)
    mean, std, own_mean, own_std = (torch.rand(3) + 0.1 for _ in range(4))

    def normalised(m: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (pixels - m[:, None, None]) / s[:, None, None]

    model = nn.Conv2d(3, 2, 3)
    wrapped = Renormalised(model, mean, std, own_mean_C=own_mean, own_std_C=own_std)
    torch.testing.assert_close(wrapped(normalised(mean, std)), model(normalised(own_mean, own_std)))


def test_teacher_of_other_statistics_is_renormalised(taught: Path) -> None:
    data = load(DATA)
    same_images, others = prepare(data, DATA, 0), prepare(data, DATA, 1)
    assert type(load_teacher(taught, data, same_images)) is type(
        build_model("small_cnn", num_classes=10, in_channels=1)
    )
    assert isinstance(load_teacher(taught, data, others), Renormalised)


def test_teachers_that_do_not_fit_are_named(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no finished run"):
        run_training(config(tmp_path / "a", teacher=tmp_path))
    with pytest.raises(InputError, match="leave out --teacher"):
        run_training(config(tmp_path / "b", "standard", teacher=taught))
    larger = DataOptions(data="digits", train_size=100, image_size=16)
    with pytest.raises(InputError, match="another shape of an image"):
        run_training(dataclasses.replace(config(tmp_path / "c", teacher=taught), data=larger))
    fewer = tmp_path / "fewer"
    shutil.copytree(taught, fewer)
    record = read_json(fewer / "run.json")
    record["images"]["class_names"].pop()
    (fewer / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="another number of classes"):
        run_training(config(tmp_path / "d", teacher=fewer))
    (fewer / "run.json").write_text((taught / "run.json").read_text())
    (fewer / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        run_training(config(tmp_path / "e", teacher=fewer))


def test_bad_options_are_refused_before_the_teacher_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="alpha is 2"):
        run_training(config(tmp_path / "run", "kd:alpha=2"))
    assert not (tmp_path / "run" / "teachers").exists()


def test_generations_are_trained_one_after_the_other(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    third = config(tmp_path / "run", "born_again:generations=2", epochs=1)
    run_training(third, on_step=lambda *step: seen.append(step))
    assert seen == [(i, 6) for i in range(1, 7)]  # three times two steps
    folders = [tmp_path / "run" / "teachers" / "standard-seed0"]
    folders += [p for p in folders[0].parent.glob("born_again_generations-1*") if p.is_dir()]
    assert len(folders) == 2
    records = [json.loads((p / "run.json").read_text())["config"] for p in (*folders, third.out)]
    starts = [record.get("start_seed", record["seed"]) for record in records]
    assert starts == [2**40, 2**41, 0]
    assert {record["seed"] for record in records} == {0}
