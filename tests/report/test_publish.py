"""Tables and forest plots for papers: bold by the test, LaTeX that parses, whole figures."""

import csv
import html.parser
import io
import json
import re
import shutil
import statistics
import tarfile
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import ttest_rel
from tests.helpers.command_line import refused

from selfexplain.cli import main
from selfexplain.errors import InputError
from selfexplain.experiments.reading_options import TableConfig
from selfexplain.experiments.table import blocks_of, write_table
from selfexplain.report.forest import forest_figure
from selfexplain.report.publish import SCORES, Block, table
from selfexplain.report.tables import comparison_table

RESULTS = Path(__file__).parents[2] / "results"
BASELINES = RESULTS / "baselines"
COMPARISONS = sorted(path.parent for path in RESULTS.glob("*/*/compare.json"))
FEW = ("standard", "kd", "dml")


def rows(**accuracies: list[float]) -> list[dict[str, Any]]:
    return [
        {"objective": name, "seed": seed, "accuracy": value, "nll": value / 100}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


# LaTeX, as far as one can read it without TeX.


TOKEN = re.compile(r"\\\\|\\[a-zA-Z]+|\\.|[{}&$%#_^~\n]|[^\\{}&$%#_^~\n]+")


def parsed(text: str) -> tuple[str, list[int]]:
    """Column specification and width of each row of the one tabular; fails where TeX would stop."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == text
    check_environments(text)
    check_tokens(tokens)
    [(specification, body)] = re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*)\\end\{tabular\}", text, re.DOTALL
    )
    for mark in (r"\\\\", r"\\midrule"):  # either would take it for its argument
        assert not re.search(mark + r"\s*[\[*]", body)
    rows = re.split(r"\\\\", body)
    assert re.fullmatch(r"\s*\\bottomrule\s*", rows.pop())
    return specification, [width_of(row) for row in rows]


def check_environments(text: str) -> None:
    environments: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            environments.append(name)
        else:
            assert environments.pop() == name
    assert not environments


def check_tokens(tokens: list[str]) -> None:
    """Braces and dollars in pairs, known commands, and no bare character of TeX's own."""
    depth, mathematics = 0, False
    for token in tokens:
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
        mathematics ^= token == "$"
        assert not (mathematics and token == "\n"), "a line ends within a formula"
        assert token not in tuple("%#_^~"), token
        assert token in LETTERS or not re.fullmatch(r"\\[a-zA-Z]+", token), token
        assert mathematics or not set("<>|") & set(token), token
        assert token != "&" or depth == 0
    assert depth == 0
    assert not mathematics


def width_of(row: str) -> int:
    """Cells of a row, those that a \\multicolumn spans included."""
    spans = re.findall(r"\\multicolumn\{(\d+)\}", row)
    return 1 + TOKEN.findall(row).count("&") + sum(int(span) - 1 for span in spans)


LETTERS = {
    *(r"\begin", r"\end"),
    *(r"\centering", r"\caption", r"\toprule", r"\midrule", r"\bottomrule", r"\textbf"),
    *(r"\textit", r"\multicolumn", r"\pm", r"\par", r"\smallskip", r"\footnotesize"),
    *(r"\textsuperscript", r"\textbackslash", r"\textasciitilde", r"\textasciicircum"),
    r"\textbar",
}


@pytest.mark.parametrize("folder", [BASELINES, *COMPARISONS, RESULTS / "targets"], ids=str)
def test_latex_of_the_results_parses(folder: Path) -> None:
    text = write_table(TableConfig(dirs=(folder,), format="latex"))
    specification, widths = parsed(text)
    assert set(widths) == {len(specification)}
    assert len(widths) > 2
    assert r"\toprule" in text
    assert "\\\\\n    \\bottomrule" in text


def test_latex_of_names_that_tex_would_take_for_its_own() -> None:
    names = ["[x]", "*", "a&b", "50 %", "$y$", "a_b^c~d", r"\input{x}", "{", "<a|b>", "--", "#1"]
    block = Block(rows(**{name: [1.0, 2.0] for name in names}), "a_b & c")
    text = table([block], "latex")
    _, widths = parsed(text)
    assert widths == [4] * (len(names) + 1)
    with pytest.raises(AssertionError):
        parsed(text.replace(r"\_", "_"))
    with pytest.raises(AssertionError):
        parsed(text.replace("{}[x]", "[x]"))


# What is bold.


def judged(block: Block, name: str) -> set[str]:
    """The rule in words: paired t-test against the best, Holm's correction step by step."""
    sign = 1 if SCORES[name].better == "higher" else -1
    values = {o: block.values(o, name) for o in block.objectives}
    values = {o: v for o, v in values.items() if v}
    best = max(values, key=lambda o: sign * statistics.fmean(values[o].values()))
    p = {}
    for objective in values.keys() - {best}:
        seeds = sorted(values[objective].keys() & values[best].keys())
        mine, its = ([values[o][s] for s in seeds] for o in (objective, best))
        p[objective] = ttest_rel(mine, its).pvalue
    kept = set(values)
    for rank, objective in enumerate(sorted(p, key=p.__getitem__)):
        if p[objective] * (len(p) - rank) >= 0.05:
            break
        kept.remove(objective)
    return kept


@pytest.mark.parametrize("name", ["accuracy", "nll", "ece"])
@pytest.mark.parametrize("folder", ["digits", "small", "gpu-30"])
def test_bold_is_what_the_test_does_not_find_worse(folder: str, name: str) -> None:
    [block] = blocks_of([BASELINES / folder])
    assert block.not_worse(name) == judged(block, name)


def test_bold_is_not_the_mean_alone() -> None:
    """A mean that is as near to the best as another is bold or not by its spread."""
    block = Block(
        rows(best=[90, 91, 92, 93], near=[89.9, 91.1, 91.8, 92.8], low=[89.9, 90.9, 91.91, 92.9])
    )
    assert block.not_worse("accuracy") == {"best", "near"}
    text = table([block], columns=["accuracy"])
    assert "| low | 91.40 ±" in text
    assert "| near | **91.40** ±" in text


@pytest.mark.parametrize(
    ("accuracies", "bold"),
    [
        ({"a": [90.0], "b": [91.0]}, set()),
        ({"a": [90.0, 91.0]}, set()),
        ({"a": [90.0, 91.0], "b": [91.0, 92.0]}, {"b"}),  # worse by as much with every seed
        ({"a": [90.0, 91.0], "b": [90.0, 91.0]}, {"a", "b"}),
        ({"a": [90.0, 91.0], "b": [91.5]}, {"b"}),  # one pair is no test
    ],
)
def test_bold_where_little_can_be_tested(accuracies: Any, bold: set[str]) -> None:
    assert Block(rows(**accuracies)).not_worse("accuracy") == bold


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_differences_are_those_of_compare(folder: Path) -> None:
    summary = {
        row["objective"]: row
        for row in json.loads((folder / "results.json").read_text())["summary"]
    }
    [block] = blocks_of([folder])
    for objective, found in block.differences("accuracy").items():
        told = summary[objective]
        assert found is not None
        assert found.paired.mean == pytest.approx(told["difference_mean"])
        if told["difference_ci95"] is not None:
            assert found.paired.ci95 == pytest.approx(told["difference_ci95"])
        if "difference_p_holm" in told and told["difference_p_holm"] is not None:
            assert found.p_holm == pytest.approx(told["difference_p_holm"])


# Other formats, footnotes, captions.


def test_csv_has_the_numbers_in_full() -> None:
    block = Block(rows(standard=[90.0, 91.0, 92.5], kd=[91.0, 91.5, 94.0]), "mine")
    [first, second] = csv.DictReader(io.StringIO(table([block], "csv", ["accuracy", "difference"])))
    assert first["comparison"] == "mine"
    assert float(first["accuracy_mean"]) == pytest.approx(91.1666666)
    assert first["difference"] == ""
    difference = block.differences("accuracy")["kd"]
    assert difference is not None
    assert float(second["difference"]) == difference.paired.mean
    assert difference.paired.ci95 is not None
    assert float(second["difference_low"]) == difference.paired.ci95[0]
    assert second["accuracy_not_worse"] == "1"


class Closed(html.parser.HTMLParser):
    """Checks that every tag is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_closed_and_escaped() -> None:
    block = Block(rows(**{"<script>": [90.0, 91.0], "b": [91.0]}), "a < b")
    parser = Closed()
    parser.feed(table([block, block], "html"))
    assert not parser.open
    assert "script" not in parser.words
    assert "<script>" in parser.words
    assert any("over 1 seed only" in words for words in parser.words)


def test_footnotes_say_which_rows_have_fewer_seeds() -> None:
    text = table([Block(rows(standard=[90.0, 91.0], kd=[92.0], dml=[93.0]))])
    assert text.count("<sup>a</sup>") == 3
    assert text.endswith("<sup>a</sup> over 1 seed only\n")


def test_a_cost_whose_interval_is_wide_is_noted() -> None:
    timed = [
        {**row, "cost": 2.0, "cost_ci95": (2.0 - half, 2.0 + half)}
        for row, half in zip(rows(a=[90.0], b=[91.0]), (0.02, 0.1), strict=True)
    ]
    text = table([Block(timed)], columns=["cost"])
    assert "| a | 2.00 ± 0.02 |" in text
    assert "| b | 2.00 ± 0.10<sup>a</sup> |" in text
    assert "wider than 3% of it" in text
    del timed[0]["cost_ci95"], timed[1]["cost_ci95"]
    assert "the spread of the timing was not kept" in table([Block(timed)], columns=["cost"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["acuracy"], "there is no column 'acuracy' (did you mean accuracy"),
        (["diference"], "did you mean difference"),
        (["accuracy", "accuracy"], "names one twice"),
        (["corrupted_accuracy"], "no run has corrupted_accuracy; pass some of accuracy, nll"),
        ([""], "there is no column ''"),
    ],
)
def test_columns_that_do_not_exist(columns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        table([Block(rows(a=[1.0]))], columns=columns)


# The table in the terminal.


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_name_is_cut_at_80_columns(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    out = io.StringIO()
    Console(file=out, width=80).print(comparison_table(results))
    lines = out.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    shown = "".join(line.split()[0] for line in lines if line.strip())
    for row in results["summary"]:
        assert row["objective"] in shown
        for piece in re.findall("[^:,+]+", row["objective"]):
            assert any(piece in line for line in lines), piece


# The forest plot.


def test_the_forest_shows_every_difference_and_its_interval() -> None:
    block = Block(rows(standard=[90, 91, 92], kd=[92, 93, 94.2], dml=[90.1, 90.9, 92.2]))
    figure = forest_figure([block])
    [axes] = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["kd", "dml"]
    for place, difference in enumerate(block.differences("accuracy").values()):
        assert difference is not None
        drawn = [tuple(line.get_xdata()) for line in axes.lines if place in line.get_ydata()]
        assert difference.paired.ci95 in drawn
        assert difference.paired.simultaneous95 in drawn
        assert (difference.paired.mean,) in drawn
    filled = {
        line.get_ydata()[0]: line.get_markerfacecolor() != "white"
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert filled == {0: True, 1: False}
    texts = [text.get_text() for text in axes.texts]
    assert texts[0].endswith("*")
    assert not texts[1].endswith("*")


def test_forest_of_several_comparisons_and_of_none() -> None:
    block = Block(rows(standard=[90, 91], kd=[91, 93]), "one")
    figure = forest_figure([block, Block(rows(a=[1.0])), Block(block.rows, "two $\\y$")], "nll")
    assert isinstance(figure, Figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two $\\y$"]
    assert "left is better" in figure.axes[-1].get_xlabel()
    with pytest.raises(InputError, match="no difference in accuracy to draw"):
        forest_figure([Block(rows(a=[1.0]))])
    with pytest.raises(InputError, match="did you mean accuracy"):
        forest_figure([block], "acuracy")


# Folders.


def test_runs_in_an_archive_are_read_like_those_beside_it() -> None:
    from_archive = blocks_of([RESULTS / "targets" / "dtd10-tune"])
    assert all(block.rows for block in from_archive)
    assert not (RESULTS / "targets" / "dtd10-tune").exists()


def run(folder: Path, objective: str, seed: int, accuracy: float, **config: object) -> None:
    folder.mkdir(parents=True)
    whole = {"objective": objective, "seed": seed, "model": "small_cnn", "data": {"data": "digits"}}
    (folder / "run.json").write_text(json.dumps({"config": whole | config}))
    scores = {"objective": objective, "seed": seed, "accuracy": accuracy}
    (folder / "result.json").write_text(json.dumps(scores))


def test_single_runs_are_paired_if_they_differ_in_objective_and_seed_alone(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / f"kd{seed}", "kd", seed, 91.0 + seed)
        run(tmp_path / f"plain{seed}", "standard", seed, 90.0 + seed)
    run(tmp_path / "other", "kd", 0, 50.0, model="resnet20")
    named = sorted(tmp_path.iterdir())
    block, other = blocks_of(named)
    assert block.objectives == ["standard", "kd"]
    assert other.title == "resnet20 on digits"
    assert [b.rows for b in blocks_of([tmp_path])] == [block.rows, other.rows]
    run(tmp_path / "again", "kd", 1, 92.0)
    with pytest.raises(InputError, match="two runs are of kd with seed 1"):
        blocks_of([tmp_path])


def test_a_comparison_without_results_says_what_it_lacks(tmp_path: Path) -> None:
    config = {"objectives": ["standard", "kd"], "seeds": [0, 1]}
    for objective, seed in (("kd", 0), ("standard", 0), ("standard", 1)):
        run(tmp_path / "c" / "runs" / f"{objective}-{seed}", objective, seed, 90.0 + seed)
    (tmp_path / "c" / "compare.json").write_text(json.dumps({"config": config}))
    [block] = blocks_of([tmp_path / "c"])
    assert block.objectives == ["standard", "kd"]
    assert block.notes == ["UNFINISHED: one run is missing (kd with seed 1)"]


def test_comparisons_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(BASELINES / "gpu-30", tmp_path / name / "same")
    blocks = blocks_of([tmp_path / "a", tmp_path / "b" / "same"])
    assert [block.title for block in blocks] == ["same (1)", "same (2)"]


def archive(path: Path, **files: bytes) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/") + ".json")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "logs.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        blocks_of([tmp_path / "runs"])
    archive(tmp_path / "logs.tar.gz", **{"..__..__run": b"{}"})
    with pytest.raises(InputError, match="cannot be read"):
        blocks_of([tmp_path])
    assert not (tmp_path.parent / "run.json").exists()
    archive(tmp_path / "logs.tar.gz", c__runs__a__run=b"{}", c__runs__a__result=b"{]")
    with pytest.raises(InputError, match="is not JSON"):
        blocks_of([tmp_path / "c"])
    archive(tmp_path / "logs.tar.gz", c__runs__a__notes=b"{}")
    with pytest.raises(InputError, match="nor does"):
        blocks_of([tmp_path / "c"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": []}, "rows"),
        ({"rows": [{"objective": "a", "seed": 0}]}, "accuracy is missing"),
        ({"rows": [{"objective": "a", "seed": 0, "accuracy": 101}]}, "accuracy is 101"),
        ({"rows": [{"objective": 3, "seed": 0, "accuracy": 1}]}, "objective is 3"),
    ],
)
def test_damaged_results_are_named(change: Any, message: str, tmp_path: Path) -> None:
    results = json.loads((BASELINES / "gpu-30" / "results.json").read_text()) | change
    results.pop("sha256", None)
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=re.escape(message)):
        blocks_of([tmp_path])


def test_the_command_writes_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["table", str(BASELINES / "gpu-30")])
    assert capsys.readouterr().out.startswith("| objective | accuracy % | difference |")
    files = [str(tmp_path / f"forest{ending}") for ending in (".pdf", ".svg", ".png")]
    out = tmp_path / "table.tex"
    words = ["table", str(BASELINES / "gpu-30"), "--format", "latex", "--out", str(out)]
    main([*words, "--figure", *files])
    starts = [Path(file).read_bytes()[:5] for file in files]
    assert starts == [b"%PDF-", b"<?xml", b"\x89PNG\r"]
    assert out.read_text().startswith("% \\usepackage{booktabs}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "there is no folder absent"),
        ([str(RESULTS / "gpu")], "contains no comparison"),
        ([str(BASELINES), "--figure", "a.gif"], "--figure is a.gif; pass files that end in"),
        ([str(BASELINES), str(BASELINES)], "names one twice"),
        ([str(BASELINES), "--columns", "nl"], "did you mean nll"),
        ([str(BASELINES / "absent")], "nor does"),
    ],
)
def test_tables_of_nothing(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "table", *words)
