"""The report in a real browser: from disk, at phone and desk width, in light and dark."""

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.photographs import findings_of

from selfexplain.experiments.report import ReportConfig, write_report
from selfexplain.report import html

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (375, 1440)

if CHROMIUM is None:
    pytest.skip("there is no chromium on the path", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(compared: Path) -> str:
    return write_report(ReportConfig(dirs=(compared,))).resolve().as_uri()


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.goto(address)
    return page


# Elements with text of their own whose text is wider than they are, unless they lie in a frame
# that scrolls or shrinks what is in it.
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && !e.closest(".scroll, svg, .skip, script"))
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .filter(e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    const right = range.getBoundingClientRect().right;
    const inline = getComputedStyle(e).display === "inline";
    return right > document.documentElement.clientWidth + 0.5
      || (!inline && e.scrollWidth > e.clientWidth);
  })
  .map(e => e.outerHTML.slice(0, 120))"""


def test_opens_from_disk_without_errors_and_asks_nobody(browser: Any, address: str) -> None:
    page = browser.new_page()
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    # What is drawn in data URIs was let through by the page's own policy.
    broken = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.locator("img").count() > 0
    assert page.evaluate(broken) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows(browser: Any, address: str, width: int) -> None:
    page = opened(browser, address, viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    for chart in page.locator(".chart svg").all():
        box = chart.bounding_box()
        assert box["x"] + box["width"] <= width or chart.evaluate("e => !!e.closest('.scroll')")


def test_overflow_would_be_seen(browser: Any, address: str) -> None:
    page = opened(browser, address, viewport={"width": 375, "height": 800})
    page.evaluate("document.querySelector('h1').style.whiteSpace = 'nowrap'")
    page.evaluate("document.querySelector('h1').textContent = 'wide '.repeat(50)")
    assert len(page.evaluate(TOO_WIDE)) == 1


def test_text_in_charts_overlaps_no_other_text(browser: Any, address: str) -> None:
    page = opened(browser, address, viewport={"width": 1440, "height": 800})
    overlapping = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
      const texts = [...svg.querySelectorAll("text")].filter(t => t.checkVisibility());
      const boxes = texts.map(t => t.getBoundingClientRect());
      const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
      return boxes.flatMap((a, i) => boxes.slice(i + 1).map((b, j) => [i, i + 1 + j, meet(a, b)]))
        .filter(([, , m]) => m).map(([i, j]) => [texts[i].textContent, texts[j].textContent]);
    })"""
    assert page.evaluate(overlapping) == []


def test_slider_goes_through_the_epochs_by_keyboard(browser: Any, address: str) -> None:
    page = opened(browser, address)
    slider = page.locator(".slider").first
    knob, caption = slider.get_by_role("slider", name="Epoch"), slider.locator("[aria-live]")
    frames = slider.locator(".frame")
    last = frames.count() - 1
    assert last >= 1
    assert caption.text_content() == "after epoch 2 of 2"
    assert frames.nth(last).is_visible()
    knob.focus()
    page.keyboard.press("Home")
    assert caption.text_content() == "after epoch 1 of 2"
    assert [frames.nth(i).is_visible() for i in range(last + 1)] == [True] + [False] * last
    first = frames.nth(0).inner_html()
    page.keyboard.press("ArrowRight")
    assert caption.text_content() == "after epoch 2 of 2"
    assert not frames.nth(0).is_visible()
    assert frames.nth(1).inner_html() != first


def test_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, address: str) -> None:
    page = opened(browser, address, viewport={"width": 375, "height": 800})
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate("document.activeElement.className || document.activeElement.tagName")
        )
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) != "none" or page.evaluate(
            "document.activeElement === document.body"
        )
    assert {"A", "scroll numbers", "SUMMARY", "INPUT"} <= seen


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_known_values() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


TEXTS = ("h1", "p", "nav a", "td", "thead th", "figcaption", "summary", "article h3 span", ".tile")


def colours(page: Any, selector: str, name: str) -> list[str]:
    script = f"es => [...new Set(es.map(e => getComputedStyle(e)['{name}']))]"
    found: list[str] = page.locator(selector).evaluate_all(script)
    assert found, selector
    return found


def test_light_and_dark_differ_and_can_be_read(browser: Any, address: str) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        page = opened(browser, address, color_scheme=scheme)
        (paper,) = colours(page, "body", "backgroundColor")
        papers.add(paper)
        for selector in (*TEXTS, "svg text"):
            name = "fill" if selector == "svg text" else "color"
            for colour in colours(page, selector, name):
                assert contrast(colour, paper) >= 4.5, (scheme, selector)
        lines = colours(page, ".legend line", "stroke") + colours(page, ".bar > span", "background")
        for colour in lines:
            assert contrast(colour, paper) >= 3, (scheme, colour)
    assert len(papers) == 2


def test_numbers_of_matrices_can_be_read_on_their_cells(browser: Any, address: str) -> None:
    """And nought is the page itself, in both themes."""
    for scheme in ("light", "dark"):
        page = opened(browser, address, color_scheme=scheme)
        (paper,) = colours(page, "body", "backgroundColor")
        cells = page.locator(".matrix tbody td:not(.same)").evaluate_all(
            """es => es.map(e => {
              const drawn = document.createElement("canvas").getContext("2d");
              const style = getComputedStyle(e);
              const [text, cell] = [style.color, style.backgroundColor].map(colour => {
                drawn.fillStyle = colour;
                drawn.fillRect(0, 0, 1, 1);
                return "rgb(" + [...drawn.getImageData(0, 0, 1, 1).data.slice(0, 3)].join() + ")";
              });
              return [e.textContent, text, cell];
            })"""
        )
        assert len(cells) == 2 * 90
        assert all(contrast(text, cell) >= 4.5 for _, text, cell in cells), scheme
        nought = {cell.replace(",", ", ") for number, _, cell in cells if number == "0"}
        greatest = max(cells, key=lambda cell: int(cell[0]))[2]
        assert paper in nought
        assert contrast(greatest, paper) > 1.8


def test_the_table_is_saved_from_the_page_itself(browser: Any, address: str) -> None:
    page = opened(browser, address)
    for label, begins in (("CSV", "comparison,objective,"), ("LaTeX", "%")):
        with page.expect_download() as saving:
            page.get_by_role("link", name=label, exact=True).click()
        assert Path(saving.value.path()).read_text().startswith(begins)
        assert saving.value.suggested_filename.startswith("results.")


def test_paper_is_white_whatever_the_screen_was(browser: Any, address: str) -> None:
    page = opened(browser, address, color_scheme="dark")
    page.emulate_media(media="print")
    assert colours(page, "body", "backgroundColor") == ["rgb(255, 255, 255)"]
    assert not page.locator("nav").is_visible()
    (ink,) = colours(page, "h1", "color")
    assert contrast(ink, "rgb(255, 255, 255)") > 7


def test_without_javascript_the_last_epoch_is_shown(browser: Any, address: str) -> None:
    page = opened(browser, address, java_script_enabled=False)
    frames = page.locator(".slider .frame")
    visible = [frames.nth(i).is_visible() for i in range(frames.count())]
    assert visible == [False] * (len(visible) - 1) + [True]
    assert page.get_by_text("after epoch 2 of 2").is_visible()
    assert not page.locator("input[type=range]").first.is_visible()
    assert page.locator("svg").first.is_visible()


def test_headings_go_down_one_level_at_a_time(browser: Any, address: str) -> None:
    page = opened(browser, address)
    levels = page.locator("h1, h2, h3, h4").evaluate_all("es => es.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_motion_is_left_out_for_those_who_ask(browser: Any, address: str) -> None:
    script = "getComputedStyle(document.documentElement).scrollBehavior"
    for wish, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        page = opened(browser, address, reduced_motion=wish)
        assert page.evaluate(script) == behaviour


# The findings on photographs.


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page on wide photographs of classes with long names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("findings") / "page.html"
    path.write_text(html.page("Photographs", [findings_of(("a_very_long_class_name" * 3, "b"))]))
    return path.as_uri()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_photographs_are_large_enough_and_fit(
    browser: Any, findings: str, width: int, scheme: str
) -> None:
    page = opened(browser, findings, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.photo')].map(e => e.getBoundingClientRect().width)"
    )
    assert len(widths) > 20
    assert min(widths) >= 160
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []


def test_one_slider_sets_the_strength_of_all_maps(browser: Any, findings: str) -> None:
    page = opened(browser, findings)
    opacities = """() => [...new Set([...document.querySelectorAll(".map img")]
      .map(e => getComputedStyle(e).opacity))]"""
    assert page.evaluate(opacities) == ["1"]
    knob = page.get_by_role("slider", name="Strength of the colours")
    assert knob.count() == 1
    knob.focus()
    page.keyboard.press("Home")
    assert page.evaluate(opacities) == ["0"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(opacities) == ["0.05"]


def test_maps_are_drawn_without_javascript(browser: Any, findings: str) -> None:
    page = opened(browser, findings, java_script_enabled=False)
    assert page.locator(".map img").first.is_visible()
    assert not page.get_by_role("slider").first.is_visible()
