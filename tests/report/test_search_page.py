"""The parts of a search's report, from data made by hand."""

import base64
import io
import math
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selfexplain.report import cell_svg
from selfexplain.report.html import colours_css, variable
from selfexplain.report.sections.search import (
    cell_part,
    lookups_table,
    search_parts,
    seeds_table,
    summary_table,
)
from selfexplain.report.sections.search_curves import (
    alphas_part,
    level_figures,
    losses_part,
    snapshots_part,
)
from selfexplain.report.sections.search_record import Explained, SearchRecord, SearchSnapshots
from selfexplain.report.style import STYLES
from selfexplain.spaces import from_string

SKIPS = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
CONVS = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"
OPTIONS = {"shown": "product", "control": "none", "gradient_path": None, "eps": 8 / 255}
EVIL = "<script>alert(1)</script>"


def line(epoch: int, genotype: str = CONVS, **more: Any) -> dict[str, Any]:
    losses = {"explainer": 2.0, "delta_1": 1.5, "audience": 4.0, "validation": 3.0}
    weights = {"cell": [[0.1, 0.1, 0.1, 0.6, 0.1]] * 6}
    alphas = {"cell": [[math.log(weight) for weight in row] for row in weights["cell"]]}
    return {
        "epoch": epoch,
        "losses": losses,
        "validation_accuracy": 50.0 + epoch,
        "step_seconds": 0.5,
        "genotype": genotype,
        "skip_share": 1 / 6,
        "weights": weights,
        "alphas": alphas,
    } | more


def record(epochs: int = 3, method: str = "lease", **more: Any) -> SearchRecord:
    config = {"method": method, "space": "nasbench201", "seed": 7, "epochs": 3, "batch_size": 20}
    result = {"genotype": CONVS, "skips": 0, "edges": 6, "collapsed": False, "epochs": epochs}
    values = {
        "config": config | {"options": OPTIONS},
        "history": tuple(line(epoch) for epoch in range(1, epochs + 1)),
        "result": result,
        "train_images": 240,
    }
    return SearchRecord(**(values | more))


def pixels_in(html: str) -> list[np.ndarray]:
    data = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in data]


@pytest.mark.parametrize(("epochs", "frames"), [(1, 1), (3, 3), (45, 20)])
def test_a_frame_for_each_epoch_up_to_twenty(epochs: int, frames: int) -> None:
    html = cell_part(record(epochs), "mark")
    assert html.count("<svg") == frames
    assert 'data-caption="after epoch 1 of 3' in html
    assert f'data-caption="after epoch {epochs} of 3' in html
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names)) == 2 * frames  # title and description
    assert set(" ".join(re.findall(r'aria-labelledby="([^"]+)"', html)).split()) == set(names)


def test_two_searches_of_a_page_share_no_ids() -> None:
    html = cell_part(record(), "a") + cell_part(record(), "b")
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert cell_svg(from_string(CONVS)) == cell_svg(from_string(CONVS))  # alone: as ever


def test_weights_stand_on_the_edges() -> None:
    assert "nor_conv_3x3 0.60" in cell_part(record(), "m")


def test_the_cell_of_a_stopped_search_is_named() -> None:
    stopped = record(history=(line(1), line(2, SKIPS)))
    html = cell_part(stopped, "m")
    assert f"the epoch before: <code>{CONVS}</code>" in html
    assert "the epoch before" not in cell_part(record(), "m")


def test_summary_says_what_was_searched_and_what_it_cost() -> None:
    html = summary_table(record())
    for cell in ("lease", "nasbench201", "7", "53.00 %", "0 of 6", "0.5 s", "0.3 min"):
        assert f">{cell}</" in html  # 3 epochs of 240 / 20 steps of half a second: 18 s
    assert "collapsed</td>" not in html
    result = {"genotype": SKIPS, "skips": 5, "edges": 6, "collapsed": True, "epochs": 2}
    early = summary_table(record(result=result | {"stopped_early": True, "skipped_steps": 2}))
    assert ">5 of 6, collapsed</" in early
    assert ">2 of 3, stopped</" in early
    assert "2 steps skipped" in early
    assert ">3 of 3, unfinished</" in summary_table(record(result=None))
    config = dict(record().config) | {"options": OPTIONS | {"control": "saliency"}}
    assert "lease, control saliency" in summary_table(record(config=config))


def test_parts_that_a_method_has() -> None:
    def titles(of: SearchRecord) -> list[str]:
        return [part.title for part in search_parts(of)]

    shared = ["Search", "Cell", "Architecture", "Losses"]
    assert titles(record(history=())) == [*shared, "What the audience was shown"]
    for method in ("darts1", "darts2", "random_search"):
        config = dict(record().config) | {"method": method}
        assert titles(record(config=config, history=())) == shared
    config = dict(record().config) | {"method": "random"}
    assert titles(record(config=config, history=())) == ["Search", "Cell"]
    assert titles(record(history=(), lookups=(LOOKUP,)))[-1] == "Lookup"


def test_a_search_without_epochs_has_all_its_parts() -> None:
    for part in search_parts(record(history=(), result=None)):
        assert part.body


def test_losses_of_each_level_with_gaps() -> None:
    warm_up = line(1, losses={"explainer": 2.0, "delta_1": 1.0, "delta_10": None, "delta_9": 3.0})
    figures = level_figures([warm_up, line(2)])
    assert [title.split(".")[0] for title in figures][:4] == ["I", "II", "III", "IV"]
    (steps,) = figures["II. The explainer explains"].axes
    assert [each.get_label() for each in steps.lines] == ["step 1", "step 9", "step 10"]
    assert list(steps.lines[0].get_ydata()) == [1.0, 1.5]
    (outer,) = figures["IV. The explainer re-learns"].axes
    assert np.isnan(outer.lines[0].get_ydata()[0])
    (accuracy,) = figures["The supernet on held-out images"].axes
    assert list(accuracy.lines[0].get_ydata()) == [51.0, 52.0]
    darts = [line(1, losses={"explainer": 2.0, "validation": 3.0})]
    assert list(level_figures(darts))[:2] == ["The weights learn", "The architecture learns"]
    assert "In the warm-up" in losses_part(record(history=(warm_up, line(2))))
    config = dict(record().config) | {"options": OPTIONS | {"control": "saliency"}}
    saliency = losses_part(record(1, config=config))
    assert "In the warm-up" not in saliency
    assert "no cross-entropy" in saliency


def test_raw_alphas_and_those_of_edges() -> None:
    html = alphas_part(record())
    assert f"<td>{math.log(0.6):.3f}</td>" in html
    assert html.count('<th scope="row">') == 6
    assert "edge&#39;s own" not in html
    alphas = {"cell": line(1)["alphas"]["cell"], "cell_edges": [0.125 * i for i in range(6)]}
    partial = alphas_part(record(history=(line(1, alphas=alphas),)))
    assert "edge&#39;s own" in partial
    assert "<td>0.625</td></tr>" in partial
    old = line(1)
    del old["alphas"]
    assert "The raw alphas are missing" in alphas_part(record(history=(old,)))


def test_lines_have_a_colour_in_both_themes() -> None:
    html = alphas_part(record()) + losses_part(record())
    used = set(re.findall(r"stroke: (#[0-9a-f]{6})", html))
    assert used <= {"#999999"}  # the line of the highest entropy, seen on white and on black
    css = colours_css()
    for style in STYLES.values():
        assert css.count(f"{variable(style.light)}:") == 2
        assert f"{variable(style.light)}:{style.dark}" in css


def snapshots(shape: tuple[int, ...] = (2, 1, 2, 2), epochs: int = 2) -> SearchSnapshots:
    delta = np.zeros(shape)
    delta[0, 0, 0, :2] = [4 / 255, -4 / 255]
    explained = np.full(shape, 0.25)
    explained[0, 0, 0, :2] = [-0.5, 1.5]
    images = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    found = {
        epoch: Explained(delta_BCHW=delta / epoch, explained_BCHW=explained)
        for epoch in range(1, epochs + 1)
    }
    return SearchSnapshots(images_BCHW=images, labels=("3", EVIL), epochs=found)


def test_snapshots_are_drawn_on_scales_that_all_epochs_share() -> None:
    html = snapshots_part(record(snapshots=snapshots()))
    first, second = (pixels_in(html)[start : start + 6] for start in (0, 6))
    assert [picture.tolist() for picture in first[:3]] == [
        [[0, 1], [2, 3]],
        [[255, 0], [128, 128]],  # the largest change of all is black or white
        [[0, 255], [96, 96]],  # (0.25 + 0.5) / 2
    ]
    assert second[1].tolist() == [[191, 64], [128, 128]]
    assert np.array_equal(first[2], second[2])
    assert "∓4.0 / 255 (ε is 8.0 / 255)" in html
    assert "from -0.50 (black) to 1.50 (white)" in html
    assert EVIL not in html


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_channels_are_drawn(channels: int) -> None:
    html = snapshots_part(record(snapshots=snapshots((2, channels, 2, 2))))
    assert len(pixels_in(html)) == 12


def test_large_images_are_shown_at_fewer_epochs() -> None:
    large = snapshots((2, 3, 512, 512), epochs=4)
    assert snapshots_part(record(snapshots=large)).count('class="frame"') == 2


@pytest.mark.parametrize(
    "nothing", [None, SearchSnapshots(images_BCHW=np.zeros(0), labels=(), epochs={})]
)
def test_a_search_without_recordings_says_so(nothing: SearchSnapshots | None) -> None:
    assert "This search has no recorded explanations" in snapshots_part(record(snapshots=nothing))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shown": "magnitude"}, "times |δ| / max|δ|"),
        ({"shown": "emphasis"}, "times 1 + |δ| / ε"),
        ({"shown": "soft_mask"}, "and fades to the images"),
        (
            {"shown": "soft_mask", "explanation": "squared_gradients"},
            "e, the evidence (squared gradients): grey is the image's median",
        ),
        ({"control": "shuffled_delta"}, "shuffled in each image"),
    ],
    ids=str,
)
def test_snapshots_say_what_was_shown(options: dict[str, str], words: str) -> None:
    config = dict(record().config) | {"options": OPTIONS | options}
    assert words in snapshots_part(record(config=config, snapshots=snapshots()))


LOOKUP = {
    "name": EVIL,
    "test": 70.123,
    "validation": 69.0,
    "seed_std": 0.25,
    "rank": 9,
    "tied": 1,
    "percentile": 25.04,
    "params_m": 0.07,
    "cells": 12,
}


def test_tables_of_seeds_and_lookups() -> None:
    html = lookups_table([LOOKUP])
    for cell in ("70.12", "69.00", "0.25", "=9 of 12", "25.0", "0.070"):
        assert f"<td>{cell}</td>" in html
    assert EVIL not in html
    rows = [
        {"seed": 3, "epochs": 5, "skips": 4, "edges": 6, "collapsed": True, "step_seconds": 0.25}
        | {"validation_accuracy": 81.0}
    ]
    summary = {"n": 1, "different_cells": 1, "collapsed": 1, "skips_mean": 4.0, "skips_std": None}
    summary |= {"validation_accuracy_mean": 81.0, "validation_accuracy_std": None}
    html = seeds_table({"rows": rows, "summary": summary})
    for cell in ("5", "81.00", "4 of 6, collapsed", "0.25"):
        assert f"<td>{cell}</td>" in html
