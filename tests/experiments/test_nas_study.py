"""`selfexplain nas-study`: methods over seeds, looked up and retrained, and what that proves."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel
from tests.helpers.command_line import refused

from selfexplain.cli import main, parse
from selfexplain.errors import InputError
from selfexplain.experiments.nas_study_options import (
    NASStudyConfig,
    method_options,
    retraining_of,
    search_of,
)
from selfexplain.experiments.options import DataOptions
from selfexplain.experiments.reading_options import ReportConfig, TableConfig
from selfexplain.experiments.report import nas_study_sections, write_report
from selfexplain.experiments.run_dir import claim_comparison
from selfexplain.experiments.search.nas_study import (
    Run,
    _row,
    run_nas_study,
    undecided_edges,
)
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.table import table_figure
from selfexplain.files import read_json, write_record
from selfexplain.lease import BaseOptions, LeaSEOptions, Rates
from selfexplain.report.nas_study import anytime_figure, nas_study_latex, study_sentence
from selfexplain.spaces import FAMILIES
from selfexplain.spaces.table import BenchmarkTable, MeasuredCell, load_table, save_table

pytestmark = pytest.mark.slow

OPERATIONS = FAMILIES["tiny201"].operations
LEASE = "lease:coupling=normalised,share=2"
METHODS = ["darts1:architecture_lr=0.3", LEASE, "random"]
WORDS = ["nas-study", "--space", "tiny201", "--data", "digits", "--train-size", "40"]
WORDS += ["--validation", "0.03", "--batch-size", "20", "--init-channels", "4", "--cells", "1"]
WORDS += ["--budget", "2", "--warmup-epochs", "0", "--seeds", "0", "1"]


def truth(arch: str) -> float:
    """A made-up accuracy, another one for each cell."""
    places = [OPERATIONS.index(part.split("~")[0]) for part in arch.split("|") if "~" in part]
    return 40 + sum(factor * place for factor, place in zip((4, 0.7, 0.1), places, strict=True))


def made_table(path: Path, cells: int = 125) -> Path:
    """A table of the first of the cells of tiny201."""
    archs = [f"|{a}~0|+|{b}~0|{c}~1|" for a, b, c in product(OPERATIONS, repeat=3)][:cells]
    sizes: dict[str, Any] = {"seeds": 3, "seed_std": 0.1, "params_m": 0.01, "flops_m": 1.0}
    save_table(
        BenchmarkTable(
            MeasuredCell(arch=a, validation=truth(a), test=truth(a), **sizes) for a in archs
        ),
        path,
    )
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_table(tmp_path_factory.mktemp("table") / "tiny.parquet")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, table: Path) -> tuple[Path, str]:
    """Folder of a finished study, and what the command said."""
    out = tmp_path_factory.mktemp("study") / "study"
    with redirect_stdout(StringIO()) as said:
        main([*WORDS, "--methods", *METHODS, "--table", str(table), "--out", str(out)])
    return out, said.getvalue()


def config_of(*more: str, methods: tuple[str, ...] = (*METHODS,)) -> NASStudyConfig:
    command = parse([*WORDS, "--methods", *methods, *more])
    assert isinstance(command, NASStudyConfig)
    return command


def test_rows_are_what_the_searches_and_the_table_say(study: tuple[Path, str]) -> None:
    results = read_json(study[0] / "results.json")
    assert [(row["method"], row["seed"]) for row in results["rows"]] == [
        (method, seed) for seed in (0, 1) for method in METHODS
    ]
    for row in results["rows"]:
        folder = search_of(config_of("--table", "t", "--out", str(study[0])), row["method"], 2, 0)
        folder = folder.out.with_name(folder.out.name.replace("seed0", f"seed{row['seed']}"))
        assert row["genotype"] == read_json(folder / "result.json")["genotype"]
        assert row["table"] == pytest.approx(truth(row["genotype"]))
        log = folder / "search.jsonl"
        if row["method"] == "random":
            assert not log.exists()
            cells, weights, seconds = [row["genotype"]] * 2, None, 0.0
        else:
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            cells = [line["genotype"] for line in lines]
            weights = lines[-1]["weights"]
            seconds = sum(2 * line["step_seconds"] for line in lines)  # of 40 images, 20 a step
        assert row["curve"] == pytest.approx([truth(cell) for cell in cells])
        assert row["weights"] == weights
        assert row["seconds"] == pytest.approx(seconds)
    assert results["reference"] == {
        "cells": 125,
        "best": pytest.approx(40 + 4.8 * 4),
        "mean": pytest.approx(40 + 4.8 * 2),
        "seed_std": 0.1,
    }


def test_the_table_command_reads_a_study(
    study: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = read_json(study[0] / "results.json")
    main(["table", str(study[0]), "--format", "latex"])
    said = capsys.readouterr().out
    assert all(cell in said for cell in (r"\toprule", results["sentence"][:20], "table \\%"))
    main(["table", str(study[0]), "--columns", "difference"])
    assert capsys.readouterr().out.startswith("| method | difference |")
    assert "did you mean cells" in refused(capsys, "table", str(study[0]), "--columns", "cell")
    figure = table_figure(TableConfig(dirs=(study[0],)))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == list(METHODS[1:])


def test_differences_are_paired_t_tests_corrected_for_all(study: tuple[Path, str]) -> None:
    results = read_json(study[0] / "results.json")
    found = {m: [r["table"] for r in results["rows"] if r["method"] == m] for m in METHODS}
    first, *others = results["summary"]
    assert first["table"]["difference_p"] is None
    assert first["table"]["difference_mean"] == 0
    for line in others:
        score = line["table"]
        mine, base = found[line["method"]], found[METHODS[0]]
        assert score["difference_mean"] == pytest.approx(sum(mine) / 2 - sum(base) / 2, abs=1e-9)
        differences = {round(a - b, 9) for a, b in zip(mine, base, strict=True)}
        if len(differences) > 1:
            assert score["difference_p"] == pytest.approx(ttest_rel(mine, base).pvalue)
    # Holm: the smaller of two p-values counts twice.
    known = sorted(
        (line["table"]["difference_p"], line["table"]["difference_p_holm"])
        for line in others
        if line["table"]["difference_p"] is not None
    )
    assert known
    assert known[0][1] == pytest.approx(min(1.0, 2 * known[0][0]))


def test_command_says_first_what_was_proven(study: tuple[Path, str]) -> None:
    out, printed = study
    results = read_json(out / "results.json")
    said = results["sentence"]
    assert said == study_sentence(results)
    assert printed.index(said) < printed.index("collapsed")
    markdown, latex = ((out / f"table.{end}").read_text() for end in ("md", "tex"))
    assert markdown.startswith(said)
    assert f"| {LEASE} |" in markdown
    assert "below 1.25 times uniform ones" in markdown
    assert latex.count(r"\midrule") == 1
    assert r"lease:coupling=normalised,share=2 & " in latex
    assert r"darts1:architecture\_lr=0.3" in latex
    assert (out / "anytime.png").read_bytes()[:4] == b"\x89PNG"


def test_report_draws_the_cells_and_calls_them_undecided(study: tuple[Path, str]) -> None:
    out, _ = study
    titles = [section.title for section in nas_study_sections(out)]
    assert titles == ["Results", "Cells", "Searches"]
    page = write_report(ReportConfig(dirs=(out,), out=out / "again.html")).read_text()
    (out / "again.html").unlink()
    assert page.count("<svg") >= 6 + 1  # each cell, and the chart
    results = read_json(out / "results.json")
    assert results["sentence"] in page
    rows = results["rows"]
    # With its small steps, lease has moved no weight far from 1/5 in four of them.
    assert [r["undecided"] for r in rows if r["method"] == LEASE] == [True, True]
    assert [r["undecided"] for r in rows if r["method"] == "random"] == [False, False]
    assert page.count("seed 0, undecided (near uniform on ") == 1
    assert page.count("seed 1, undecided (near uniform on ") == 2  # shown first, and in its frame


def test_a_search_of_a_study_is_one_by_itself(study: tuple[Path, str], tmp_path: Path) -> None:
    words = ["search", *WORDS[1 : WORDS.index("--budget")], "--epochs", "2"]
    words += [
        "--warmup-epochs",
        "0",
        "--out",
        str(tmp_path / "one"),
        "--method",
        "darts1",
        "--architecture-lr",
        "0.3",
    ]
    alone = run_search(parse(words).each()[0])  # type: ignore[union-attr]
    own = search_of(config_of("--table", "t", "--out", str(study[0])), METHODS[0], 2, 0).out
    same = read_json(own / "result.json")
    for result in (alone, same):
        del result["step_seconds"]
    assert alone == same


def test_the_form_is_that_of_searches_and_retrainings(tmp_path: Path) -> None:
    data = DataOptions(data="digits")
    config = NASStudyConfig(data=data, space="darts", form="imagenet", retrain=1, out=tmp_path)
    assert search_of(config, "darts1", 50, 0).form == "imagenet"
    assert retraining_of(config, "published:DARTS_V2", 0).form == "imagenet"


def test_methods_seeds_and_retraining_are_added(
    study: tuple[Path, str], table: Path, tmp_path: Path
) -> None:
    """Nothing is searched again, and searches with the same cell share its training."""
    out = tmp_path / "study"
    shutil.copytree(study[0], out)
    before = read_json(out / "results.json")["rows"]
    retrain = ["--retrain", "1", "--retrain-channels", "4", "--retrain-batch-size", "20"]
    config = config_of("--table", str(table), "--out", str(out), *retrain)
    times = {path: path.stat().st_mtime_ns for path in out.glob("searches/*/result.json")}
    results = run_nas_study(config)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert results["rows"] == before
    assert len(results["retrained"]) == 6
    for row in results["retrained"]:
        training = retraining_of(config, row["genotype"], row["seed"])
        assert row["found_by"] == row["seed"]
        assert row["accuracy"] == read_json(training.out / "result.json")["accuracy"]
        assert training.data.validation == 0  # all training images, scored on the test images
    distinct = {(row["genotype"], row["seed"]) for row in results["retrained"]}
    assert len(list(out.glob("retrained/*/result.json"))) == len(distinct)
    assert results["summary"][1]["retrained"]["n"] == 2
    assert "in the table" in results["sentence"]
    assert "after retraining" in results["sentence"]
    assert nas_study_sections(out)[2].parts[0].title == "Retrained"
    # Only the best of each method, whose cell is then trained with every seed.
    best = run_nas_study(
        config_of(
            *("--out", str(out), *retrain, "--retrain-found", "best", "--seeds", "2", "0"),
            *("--budget", "1", "2"),
            methods=("random", METHODS[0]),
        )
    )
    assert len(list(out.glob("searches/*/result.json"))) == 6 + 2 + 4
    assert best["reference"] is None
    for budget in (1, 2):
        darts = [
            row for row in best["rows"] if (row["method"], row["budget"]) == (METHODS[0], budget)
        ]
        chosen = max(darts, key=lambda row: row["validation_accuracy"])
        accuracies: dict[str, list[float]] = {}
        for row in best["retrained"]:
            if row["budget"] == budget:
                accuracies.setdefault(row["method"], []).append(row["accuracy"])
            if (row["method"], row["budget"]) == (METHODS[0], budget):
                assert (row["found_by"], row["genotype"]) == (chosen["seed"], chosen["genotype"])
        # Compared with the first method at the same budget.
        baseline, line = (line for line in best["summary"] if line["budget"] == budget)
        assert (baseline["method"], line["method"]) == ("random", METHODS[0])
        means = {method: sum(values) / 2 for method, values in accuracies.items()}
        assert line["retrained"]["difference_mean"] == pytest.approx(
            means[METHODS[0]] - means["random"]
        )
    assert "of these cells and not of the methods" in nas_study_latex(best)
    assert "after retraining one cell each (2 seeds)" in best["sentence"]
    assert "With 1 epoch " in best["sentence"]
    assert nas_study_sections(out)[0].title == "Results"


def test_a_study_with_other_options_is_refused_and_kept(study: tuple[Path, str]) -> None:
    out, _ = study
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for more, said in (
        (["--lr", "0.1"], "lr was 0.025, is 0.1"),
        (["--init-channels", "8"], "init_channels was 4, is 8"),
        (["--train-size", "41"], "train_size was 40, is 41"),
    ):
        config = config_of("--retrain", "1", "--out", str(out), *more)
        with pytest.raises(InputError, match=f"holds a run with other options .{said}"):
            run_nas_study(config)
    compare = parse(["compare", "--data", "digits", "--out", str(out)])
    with pytest.raises(InputError, match=r"holds a study of searches \(nas-study\.json\), which"):
        claim_comparison(compare)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_broken_off_study_is_told_and_damage_is_found(
    study: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "study"
    shutil.copytree(study[0], out)
    results = read_json(out / "results.json")
    for damage in (
        {"weights": {"cell": [[1.0]]}},
        {"genotype": "|what~0|"},
        {"curve": [1.0]},
        {"table": None},
    ):
        row = {**results["rows"][0], **damage}
        row = {name: value for name, value in row.items() if value is not None}
        write_record(out / "results.json", {**results, "rows": [row, *results["rows"][1:]]})
        with pytest.raises(InputError, match=r"results\.json is damaged"):
            nas_study_sections(out)
    (out / "results.json").unlink()
    next(out.glob("searches/random*/result.json")).unlink()
    [section] = nas_study_sections(out)
    assert "5 of 6 searches are" in section.body


def test_curves_of_searches_that_stopped_or_chose_another_cell(study: tuple[Path, str]) -> None:
    search = search_of(config_of("--table", "t", "--out", str(study[0])), METHODS[0], 2, 0)
    result = read_json(search.out / "result.json")
    lines = [json.loads(line) for line in (search.out / "search.jsonl").read_text().splitlines()]
    first, last = (line["genotype"] for line in lines)
    run, table = Run(method="m", budget=2, search=search), load_table(made_table(study[0] / ".t"))
    # Stopped after the second epoch, whose cell skips too much: the first one's is kept.
    row = _row(run, {**result, "genotype": first, "stopped_early": True}, table)
    assert row["curve"] == pytest.approx([truth(first)] * 2)
    assert row["weights"] == lines[0]["weights"]
    # Selected otherwise than by the largest weights.
    chosen = "|none~0|+|none~0|none~1|"
    row = _row(run, {**result, "genotype": chosen}, table)
    assert row["curve"] == pytest.approx([truth(first), truth(last)])
    assert row["table"] == pytest.approx(truth(chosen))


# What needs no search.


def test_options_of_a_method_are_those_of_the_dataclasses() -> None:
    """Whatever a search says of how it searches can be said of a method, and nothing else."""
    found = method_options()
    kinds = (LeaSEOptions, Rates, BaseOptions)
    names = {name.rstrip("_") for kind in kinds for name in kind.__slots__}
    assert names <= set(found)
    assert {"audience", "warmup_epochs", "stop_at_skips"} <= set(found)
    assert not {"epochs", "seed", "batch_size", "space", "data", "out", "cells"} & set(found)
    search = search_of(
        config_of("--retrain", "1", "--lr", "0.1"),
        "lease:gradient_path=explainer_only,lambda=2,momentum=0.5,audience=resnet20",
        2,
        1,
    )
    assert (search.options.gradient_path, search.options.lambda_) == ("explainer_only", 2)
    assert (search.rates.momentum, search.rates.lr, search.audience) == (0.5, 0.1, "resnet20")
    assert (search.seed, search.epochs, search.batch_size) == (1, 2, 20)


REFUSED = {
    "leese": "there is no search method 'leese'; pass lease",
    "darts": "there is no search method 'darts'; pass darts",
    "lease:lamda=2": "lease has no option 'lamda=2'; pass lambda",
    "lease:share=-1": "lease:share=-1: share is -1; pass a number above 0",
    "lease:share=much": "share of lease is 'much'; pass a number",
    "lease:share": "share of lease has no value",
    "lease:control=noise": "lease:control=noise: control is 'noise'; pass one of none, random_de",
    "lease:share=1,share=1": "gives an option twice",
    "lease:": "has a separator without an option",
    "lease:batch_size=9": "batch_size in 'lease:batch_size=9' is the same for all .* --batch-size",
    "lease:epochs=9": "epochs in 'lease:epochs=9' is the same for all methods .* --budget",
    "lease:train_size=9": "pass --train-size",
    "darts1:lambda=2": "darts1:lambda=2: method darts1 has no explanation",
    "darts1:audience=resnet20": "method darts1 has no audience",
    "random:stop_at_skips=1": "random:stop_at_skips=1: stop_at_skips looks at",
    "darts1:architecture_lr=0.30": "'darts1:architecture_lr=0.3' and .* are one method",
    "lease:share=2,coupling=normalised": "are one method with the same options",
    "lease:share=2,coupling=normalised,lambda=3": "are one method with the same options",
    "random:lr=0.1": "'random' and 'random:lr=0.1' are one method",
    METHODS[2]: "--methods names one twice",
    "sanas:gradient_path=explainer_only": "sanas:.*: gradient_path is explainer_only, but only",
    "lease:base=pdarts": "lease:base=pdarts: base is pdarts, which is made for the cells of darts",
    "lease:base=drnass": "base is 'drnass'; pass one of plain, beta_darts, drnas",
    "random:base=drnas": "random:base=drnas: method random has no gradient",
    "darts1:select=audience_perturbation": "darts1:select=audience_perturbation: .* no audience",
    "all_conv3x3:lr=-1": "all_conv3x3:lr=-1: lr is -1; pass a number above 0",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_methods_that_cannot_be_are_refused_before_anything_is_read(spec: str) -> None:
    with pytest.raises(InputError, match=REFUSED[spec]) as refusal:
        config_of("--table", "absent", methods=(*METHODS, spec))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lease", "lease:gradient_path=full"),
        ("lease", "lease:mode=inner_product"),
        ("lease", "lease:share=3"),
        ("lease", "lease:neumann_terms=5"),
        ("darts2", "darts2:mode=finite_difference"),
        ("darts1", "darts1:warmup_epochs=0"),
        ("random_search", "random_search:architecture_lr=1"),
        ("all_conv3x3", "all_conv3x3:lr=1"),
        ("darts1", "darts1:base=plain"),
        ("darts1:base=beta_darts", "darts1:base=beta_darts,beta_weight=50.0"),
    ],
)
def test_two_spellings_of_one_method_are_refused(first: str, second: str) -> None:
    with pytest.raises(InputError, match="are one method with the same options; leave one out"):
        config_of("--table", "absent", methods=(first, second))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--table", "t", "--budget", "0"], "--budget is 0; pass a whole number of at least 1"),
        (["--table", "t", "--budget", "2", "2"], "--budget names one twice"),
        (["--table", "t", "--seeds", "0", "0"], "--seeds names one twice"),
        (["--table", "t", "--warmup-epochs", "2"], "--warmup-epochs is 2; pass 0 to 1"),
        (["--table", "t", "--space", "pcdarts", "--init-channels", "4"], "--init-channels is 4"),
        (["--table", "t", "--retrain-found", "best"], "--retrain-found is for retraining"),
        (["--retrain", "0"], "--retrain is 0"),
        (
            ["--retrain", "1", "--space", "darts", "--cells", "3", "--retrain-channels", "3"],
            "even|2",
        ),
        ([], "of different supernets are not comparable; pass --table .*, or --retrain EPOCHS"),
    ],
)
def test_bad_options_are_refused(more: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        config_of(*more)


def test_a_budget_that_a_method_cannot_spend_is_named_as_typed() -> None:
    words = ["--retrain", "1", "--space", "darts", "--cells", "3"]
    with pytest.raises(InputError, match=r"^--budget is 2, but base pdarts has three stages"):
        config_of(*words, methods=("darts1:base=pdarts",))


def test_tables_of_other_spaces_are_refused_before_the_search(tmp_path: Path, table: Path) -> None:
    part = made_table(tmp_path / "part.parquet", cells=100)
    for words, said in (
        (["--table", str(part)], "has 100 of the 125 cells of tiny201"),
        (["--table", str(table), "--space", "nasbench201"], "has 0 of the 15625 cells of nasben"),
        (["--table", str(table), "--space", "darts", "--cells", "3"], "space is darts; leave out"),
        (["--table", str(tmp_path / "no.parquet")], "there is no table"),
        (["--table", str(table), "--data", "folder:absent"], "absent"),
    ):
        with pytest.raises(InputError, match=said):
            run_nas_study(config_of(*words, "--out", str(tmp_path / "out")))
        assert not (tmp_path / "out").exists()


def test_an_unknown_audience_is_refused_before_the_search(tmp_path: Path, table: Path) -> None:
    config = config_of(
        *("--table", str(table), "--out", str(tmp_path / "out")),
        methods=("darts1", "lease:audience=resnet2"),
    )
    with pytest.raises(InputError, match="resnet20"):
        run_nas_study(config)
    assert not (tmp_path / "out").exists()


def test_what_the_images_do_not_allow_is_refused_before_the_search(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more, said in (
        (["--retrain-batch-size", "41"], "retrain_batch_size is 41, and there are 40 images"),
        (["--image-size", "6"], "image_size is 6, but this network halves"),
        (["--batch-size", "41"], "the training part has 40 images, fewer than a batch of 41"),
    ):
        with pytest.raises(InputError, match=said):
            run_nas_study(config_of("--retrain", "1", "--out", str(out), *more))
    assert {path.name for path in out.glob("*")} <= {".lock"}


def score(mean: float, half: float, p: float | None, n: int = 5) -> dict[str, Any]:
    interval = None if n < 2 else (mean - half, mean + half)
    return {
        "n": n,
        "difference_mean": mean,
        "difference_ci95": interval,
        "difference_p": p,
        "difference_p_holm": p,
    }


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([score(0.6, 0.2, 0.01)], "a is 0.60 ± 0.20 points better than darts2 in the table (5 se"),
        ([score(-0.6, 0.2, 0.01)], "a is 0.60 ± 0.20 points worse than darts2 in the table"),
        ([score(0.6, 0.8, 0.3)], "No difference to darts2 is proven in the table (5 seeds)."),
        (
            [score(0.6, 0.0, None)],
            "No difference to darts2 is proven (the same with every seed, which leaves a test no "
            "spread: a +0.60 points) in the table (5 seeds).",
        ),
        ([score(0.6, 0, None, n=1)], "Nothing is proven in the table: one seed has no spread; pa"),
        (
            [score(0.6, 0.2, 0.01), score(0.1, 0.2, 0.5), score(0.1, 0.2, 0.5)],
            "a is 0.60 ± 0.20 points better than darts2, no difference of b or c is proven in",
        ),
        (
            [score(0.1, 0.2, 0.5), score(0.1, 0.2, 0.5)],
            "No difference of a or b to darts2 is proven in the table",
        ),
        ([], "Nothing is compared: darts2 is the only method."),
    ],
)
def test_sentences(others: list[dict[str, Any]], said: str) -> None:
    lines = [{"method": "darts2", "table": score(0, 0, None, (others or [{"n": 1}])[0]["n"])}]
    lines += [{"method": m, "table": s} for m, s in zip("abc", others, strict=False)]
    assert study_sentence({"summary": [{**line, "budget": 5} for line in lines]}).startswith(said)


def test_sentence_on_several_budgets() -> None:
    lines = [
        {"method": method, "budget": budget, "table": score(mean, 0.1, p)}
        for budget, p in ((1, 0.5), (20, 0.01))
        for method, mean in (("darts2", 0.0), ("lease", 0.3))
    ]
    assert study_sentence({"summary": lines}) == (
        "With 1 epoch no difference to darts2 is proven; with 20 epochs lease is 0.30 ± 0.10 "
        "points better than darts2 in the table (5 seeds)."
    )


def test_curves_are_means_over_seeds_and_what_was_chosen_in_the_end() -> None:
    curves = {0: [50.0, 60.0], 1: [54.0, 62.0]}
    rows = [
        {"method": "m", "budget": 2, "seed": seed, "curve": curve, "table": 70.0}
        for seed, curve in curves.items()
    ]
    drawn = anytime_figure({"rows": rows, "reference": {"best": 80.0, "mean": 40.0}})
    mean, final, best, average = drawn.axes[0].lines
    assert list(mean.get_ydata()) == [52.0, 61.0]
    assert (list(final.get_xdata()), list(final.get_ydata())) == ([2], [70.0])
    assert (best.get_ydata()[0], average.get_ydata()[0]) == (80.0, 40.0)


def test_undecided_edges_are_those_near_uniform() -> None:
    near, clear = [0.249, 0.2, 0.2, 0.2, 0.151], [0.251, 0.2, 0.2, 0.2, 0.149]
    assert undecided_edges({"cell": [near, clear]}) == 0.5
    assert undecided_edges({"normal": [near, near], "reduce": [clear, clear]}) == 0.5
    assert undecided_edges({"cell": [clear]}) == 0
