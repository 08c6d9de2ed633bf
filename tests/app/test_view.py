"""What is drawn of an explanation."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from selfexplain.app import Explanation
from selfexplain.app.view import (
    by_strength,
    explanation_html,
    image_uri,
    map_uri,
    note_html,
    run_html,
    tabs_html,
    title_html,
)
from selfexplain.report.html import RED, image_pixels, map_pixels

HOSTILE = "<script>alert(1)</script>${value}{{x}}"


def explanation(classes: int = 20) -> Explanation:
    generator = torch.Generator().manual_seed(0)
    p_K = torch.rand(classes, generator=generator).softmax(dim=0)
    q_K = p_K.index_fill(0, p_K.argmax(), 0.0)
    return Explanation(
        class_names=tuple(f"class {k}" for k in range(classes)),
        image_CHW=torch.randint(256, (3, 8, 8), generator=generator, dtype=torch.uint8),
        probability_K=p_K,
        maps_KHW=torch.randn(classes, 2, 3, generator=generator),
        similarity_K=torch.rand(classes, generator=generator) - 0.5,
        target_K=q_K / q_K.sum(),
        measure="attended_votes",
        own=True,
    )


def names(html: str, label: str) -> list[str]:
    block = re.search(rf'aria-label="{label}">(.*?)</ul>', html, re.DOTALL).group(1)
    return re.findall(r'class="sx-name" title="([^"]*)"', block)


def test_maps_are_in_order_and_as_many_as_asked_for() -> None:
    one = explanation()
    strength = [float(each.clamp(min=0).mean()) for each in one.maps_KHW]
    order = sorted(range(20), key=lambda k: -strength[k])
    assert by_strength(one.maps_KHW) == order
    html = explanation_html(one, maps=12)
    drawn = re.findall(r'alt="map of ([^"]*)"', html)
    assert drawn == [f"class {k}" for k in order[:12]]
    assert "Maps of 12 of 20 classes" in html
    every = explanation_html(one, maps=20)
    assert every.count("map of") == 20
    assert "Maps of every class" in every


def test_bars_show_the_largest_without_the_explained_class() -> None:
    one = explanation()
    html = explanation_html(one, maps=1)
    probabilities = one.probability_K.argsort(descending=True).tolist()[:5]
    assert names(html, "probabilities") == [f"class {k}" for k in probabilities]
    for label, values in (("similarities", one.similarity_K), ("soft target", one.target_K)):
        others = [k for k in values.argsort(descending=True).tolist() if k != one.predicted][:5]
        assert names(html, label) == [f"class {k}" for k in others]


def test_it_says_whether_the_target_was_the_runs_own() -> None:
    one = explanation()
    assert "What this run teaches itself" in explanation_html(one, maps=1)
    assert "would train itself on" in explanation_html(replace(one, own=False), maps=1)


def test_a_target_of_ranks_is_told_in_a_sentence() -> None:
    """Its bars would be the same for every image."""
    ranks = 1 / torch.arange(1, 20)
    target_K = torch.cat([ranks / ranks.sum(), torch.zeros(1)])
    one = replace(explanation(), target_K=target_K, fixed=True)
    html = explanation_html(one, maps=1)
    assert "the classes get\n28, 14, 9, 7, 6 %, the same for every image" in html
    assert 'aria-label="soft target"' not in html
    assert 'aria-label="soft target"' in explanation_html(replace(one, fixed=False), maps=1)


def test_one_run_needs_no_tabs() -> None:
    assert tabs_html(["a"]) == ""
    assert tabs_html(["a", "b"]).count('type="radio"') == 2


def test_names_from_outside_are_escaped() -> None:
    one = replace(explanation(2), class_names=(HOSTILE, '" onmouseover="alert(1)'))
    html = explanation_html(one, maps=12)
    assert "<script" not in html
    assert 'onmouseover="' not in html
    runs = run_html(HOSTILE, [HOSTILE], 1) + title_html([HOSTILE, "b"], [(HOSTILE,), ("c",)])
    runs += tabs_html([HOSTILE, "b"]) + note_html(HOSTILE)
    assert runs.count("&lt;script&gt;") == 6
    assert "<script" not in runs


def test_runs_of_the_same_classes_need_no_note() -> None:
    assert "sx-note" not in title_html(["a", "b"], [("x", "y"), ("y", "x")])
    assert "sx-note" not in title_html(["a"], [("x", "y")])


def drawn(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_maps_and_images_are_drawn_as_in_the_report() -> None:
    map_HW = torch.tensor([[1.0, -1.0, 0.0, 9.0]])
    assert (drawn(map_uri(map_HW, 2.0)) == map_pixels(map_HW, 2.0)).all()
    image_CHW = explanation().image_CHW
    grey = drawn(image_uri(image_CHW, grey=True))
    assert (grey == image_pixels(image_CHW, grey=True)[:, :, 0]).all()


@pytest.mark.parametrize("size", [(8, 8), (224, 100)])
def test_an_image_keeps_its_pixels(size: tuple[int, int]) -> None:
    image_CHW = torch.randint(256, (3, *size), dtype=torch.uint8)
    assert (drawn(image_uri(image_CHW)) == image_CHW.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(
    ("size", "kept"), [((2, 3), (2, 3)), ((100, 50), (100, 50)), ((224, 112), (128, 64))]
)
def test_a_map_keeps_its_resolution_up_to_a_limit(
    size: tuple[int, int], kept: tuple[int, int]
) -> None:
    pixels_HWC = drawn(map_uri(torch.full(size, 0.5), 1.0))
    assert pixels_HWC.shape == (*kept, 4)
    assert (pixels_HWC == (*RED, 102)).all()
