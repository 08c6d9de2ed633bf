"""The parts of the HTML page: what goes in comes out escaped, once, and the same each time."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from selfexplain.report.html import Section, figure, image, page, paragraph, render, slider, table

EVIL = '</script><script>alert("x")</script>&\'$\\y$'
VOID = {"meta", "link", "img", "input", "br"}


class Tags(HTMLParser):
    """All elements; fails where one is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def drawing(colour: str = "black") -> Figure:
    drawn = Figure(figsize=(3, 2))
    axes = drawn.subplots()
    axes.plot([1, 2], [2, 1], "o-", color=colour)
    axes.set_title(EVIL, parse_math=False)
    return drawn


def test_page_is_whole_and_reaches_for_nothing_outside() -> None:
    html = page("A", [Section("One", figure(drawing(), "line")), Section("Two", "")], summary="s")
    tags = Tags(html)
    outside = [
        value
        for _, attributes in tags.found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:"))
    ]
    assert outside == []
    assert tags.all("html") == [{"lang": "en"}]
    targets = {a["href"] for a in tags.all("a")} - {"#main"}
    assert targets == {f"#{h2['id']}" for h2 in tags.all("h2")} == {"#section-1", "#section-2"}
    assert "default-src 'none'" in html
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)


def test_what_comes_from_outside_is_escaped_everywhere() -> None:
    parts = [
        table([EVIL, EVIL], [[EVIL, EVIL]], caption=EVIL),
        slider(EVIL, [paragraph(EVIL)], [EVIL]),
        image(np.zeros((2, 2, 3), np.uint8), EVIL, size=10),
        figure(drawing(), EVIL),
    ]
    tags = Tags(page(EVIL, [Section(EVIL, part) for part in parts], summary=EVIL))
    assert len(tags.all("script")) == 1  # the page's own
    assert tags.all("img")[0]["alt"] == EVIL
    assert tags.all("svg")[0]["aria-label"] == EVIL
    assert tags.texts.count(EVIL) >= 4 * 2 + 7  # contents, headings, cells, a paragraph


def test_only_what_was_rendered_is_html() -> None:
    """A body, a part of a section and a frame of a slider that are mere text are escaped."""
    inner = Section("Inner", EVIL)
    html = page("A", [Section("One", EVIL, (inner,)), Section("Two", slider("x", [EVIL], ["y"]))])  # type: ignore[list-item]
    tags = Tags(html)
    assert len(tags.all("script")) == 1
    assert tags.texts.count(EVIL) == 3
    assert "<h3>Inner</h3>" in html


def test_a_template_needs_all_that_it_names() -> None:
    with pytest.raises(UndefinedError, match="one_seed"):
        render("curves.html", legend=[], first=[], others=[])


def test_row_names_may_be_broken_after_options() -> None:
    html = table(["name", "%"], [["a:b=1,c=2", "1,5"]], caption="a:b")
    assert '<th scope="row">a:<wbr>b=1,<wbr>c=2</th><td>1,5</td>' in html
    assert html.count("<wbr>") == 2


def test_slider_shows_the_last_frame_alone() -> None:
    tags = Tags(slider("epoch", list(map(Markup, "123")), ["one", "two", "three"]))
    frames = [a for a in tags.all("div") if a["class"] == "frame"]
    assert ["hidden" in frame for frame in frames] == [True, True, False]
    assert [frame["data-caption"] for frame in frames] == ["one", "two", "three"]
    (knob,) = tags.all("input")
    assert (knob["min"], knob["max"], knob["value"]) == ("1", "3", "3")
    assert "three" in tags.texts


def test_slider_refuses_captions_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 frames and 1 captions"):
        slider("epoch", [Markup("a"), Markup("b")], ["one"])
    with pytest.raises(ValueError, match="at least one"):
        slider("epoch", [], [])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back_as_they_went_in(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, channels), dtype=np.uint8)
    (tag,) = Tags(image(pixels, "noise", size=50)).all("img")
    data = base64.b64decode((tag["src"] or "").split(",")[1])
    back = np.asarray(Image.open(io.BytesIO(data))).reshape(pixels.shape)
    assert np.array_equal(back, pixels)
    assert (tag["width"], tag["height"]) == ("50", "30")


def test_pixels_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="pass uint8"):
        image(np.zeros((2, 2, 3)), "floats", size=10)


def test_figure_is_the_same_each_time_and_takes_the_colour_of_the_text() -> None:
    drawn = drawing()
    html = figure(drawn, "line")
    assert html == figure(drawn, "line") == figure(drawing(), "line")
    svg = ET.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])  # type: ignore[index]
    assert svg.get("fill") == "currentColor"
    assert "#000000" not in html
    texts = [e.text for e in svg.iter() if e.tag.endswith("}text")]
    assert EVIL in texts  # text stays text
    assert drawn.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # the figure is left as it was


@pytest.mark.filterwarnings("error")
def test_glyphs_that_the_browser_has_are_not_missed() -> None:
    drawn = drawing()
    drawn.axes[0].set_title("日本語")
    assert "日本語" in figure(drawn, "line")


def test_figures_share_no_names_and_every_reference_is_found() -> None:
    both = figure(drawing("red"), "a") + figure(drawing("blue"), "b")
    names = re.findall(r'id="([^"]+)"', both)
    assert len(names) == len(set(names)) > 0
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", both)) <= set(names)
