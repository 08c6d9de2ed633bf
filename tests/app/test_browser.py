"""The app in Chromium, with real uploads; it runs as its users run it, in a process of its own."""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.app_files import png_that_declares

import selfexplain
from selfexplain.files import read_json

pytest.importorskip("playwright", reason="Playwright is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # milliseconds: an answer takes longer where other tests run

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
    pytest.mark.skipif(
        importlib.util.find_spec("gradio") is None, reason="Gradio (the extra app) is not installed"
    ),
]
Runs = tuple[Path, Path]


@contextlib.contextmanager
def running(folders: list[Path]) -> Iterator[str]:
    """The app's address, while it runs; uploads are gone when it was terminated."""
    with tempfile.TemporaryDirectory() as temporary:
        with _running(folders, temporary) as url:
            assert len(_uploads(temporary)) == 1
            yield url
        assert _uploads(temporary) == []


def _uploads(temporary: str) -> list[Path]:
    return list(Path(temporary).glob("selfexplain-app-*"))


@contextlib.contextmanager
def _running(folders: list[Path], temporary: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Path(selfexplain.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": temporary,
    }
    chosen = [word for folder in folders for word in ("--run", str(folder))]
    process = subprocess.Popen(
        [sys.executable, "-m", "selfexplain", "app", *chosen, "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("Page: "), first + process.stdout.read()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def address(runs: Runs) -> Iterator[str]:
    with running([*runs]) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page whose requests stay on this machine and whose console has no errors."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    strayed: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda request: strayed.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    opened.goto(address)
    opened.wait_for_selector("#file input[type=file]", state="attached")
    yield opened
    opened.close()
    assert [url for url in strayed if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


@pytest.fixture(scope="module")
def digit(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the test set as a file."""
    pixels = load_file(runs[0] / "album" / "images.safetensors")["images"][0, 0]
    path = tmp_path_factory.mktemp("images") / "digit.png"
    Image.fromarray(pixels.numpy()).save(path)
    return path


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#file input[type=file]", path)


def answers(page: Page) -> Any:
    return page.locator(".sx-answer")


def first_map(page: Page) -> str:
    source = page.locator("#view-0 .sx-map img").first.get_attribute("src")
    assert source is not None
    return source


def test_an_upload_is_classified_and_explained_by_both_runs(page: Page, digit: Path) -> None:
    upload(page, digit)
    expect(answers(page)).to_have_count(2)
    for run in (0, 1):
        view = page.locator(f"#view-{run}")
        expect(view.locator(".sx-map")).to_have_count(10)
        for tone in ("plain", "similar"):
            expect(view.locator(f".sx-{tone} li")).to_have_count(5)
        # Drawn, and not only there: the browser has decoded the picture and laid out the bar.
        widths = view.locator("img").evaluate_all("images => images.map(i => i.naturalWidth)")
        assert len(widths) == 11
        assert min(widths) > 0
        row = view.locator(".sx-plain li").first
        bar, track = row.locator("i").bounding_box(), row.locator(".sx-track").bounding_box()
        assert bar is not None
        assert track is not None
        percent = int(row.locator(".sx-value").inner_text().split()[0])
        assert 100 * bar["width"] / track["width"] == pytest.approx(percent, abs=1)
        assert "the same for every image" in view.inner_text()
    for run, name in enumerate(("introspective", "standard")):
        assert f"{name} digits, " in page.inner_text(f"#run-{run} .sx-name-of-run")


def test_it_opens_on_its_first_example(page: Page, digit: Path) -> None:
    expect(answers(page)).to_have_count(2)
    shown = page.locator("#view-0 .sx-picture img")
    before = shown.get_attribute("src")
    page.locator("#count, #kind").first.get_by_text("Grad-CAM").click()
    expect(page.locator("#view-0 .sx-hint").nth(1)).to_contain_text("cosine")
    assert shown.get_attribute("src") == before  # the image is kept, and not only drawn
    upload(page, digit)  # which is the first example
    expect(shown).to_have_attribute("src", str(before))


def test_many_images_are_filtered_loaded_lazily_and_picked(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("tab", name="Many images").click()
    tiles = page.locator("#thumbs button")
    expect(page.locator("#thumbs .sx-count")).to_contain_text("of 359 images")
    page.get_by_label("Answers").click()
    page.get_by_role("option", name="all", exact=True).click()
    expect(tiles).to_have_count(359)
    expect(page.locator("#thumbs .sx-count")).to_contain_text("359 of 359")
    expect(page.locator("#trouble p")).to_have_count(0)  # the images have been read
    page.wait_for_function("document.querySelector('#thumbs img').naturalWidth > 0")
    assert len({url for url in asked if "/thumbnail/" in url}) < 359
    tiles.last.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('#thumbs img')].at(-1).naturalWidth > 0")
    page.get_by_label("True class").click()
    page.get_by_role("option", name="4", exact=True).click()
    expect(page.locator("#thumbs .sx-name").first).to_have_text("4")
    fours = int(page.inner_text("#thumbs .sx-count").split()[0])
    assert 10 < fours < 60
    said = tiles.nth(3).locator(".sx-said").first.inner_text().split()
    tiles.nth(3).click()
    expect(page.locator("#view-0 .sx-answer")).to_be_visible()
    answer = said[-3]
    expect(page.locator("#view-0 .sx-answer")).to_have_text(f"{answer} {said[-2]} %")
    page.get_by_role("tab", name="Many images").click()
    page.get_by_label("Confidence to, %").first.fill("1")
    page.keyboard.press("Tab")
    expect(tiles).to_have_count(0)
    expect(page.locator("#thumbs .sx-count")).to_contain_text("0 of 359 images")


def test_a_phone_shows_one_run_at_a_time(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 375, "height": 900})
    page.goto(address)
    expect(page.locator("#view-0 .sx-answer")).to_be_visible()
    expect(page.locator("#view-1 .sx-answer")).to_be_hidden()
    page.locator(".sx-tabs label").nth(1).click()
    expect(page.locator("#view-1 .sx-answer")).to_be_visible()
    expect(page.locator("#view-0 .sx-answer")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#view-0 .sx-answer")).to_be_visible()
    page.close()


def test_kind_and_layer_are_switched(page: Page, digit: Path) -> None:
    upload(page, digit)
    expect(answers(page)).to_have_count(2)
    cam = first_map(page)
    page.locator("#kind").get_by_text("Grad-CAM").click()
    expect(page.locator("#view-0 .sx-hint").nth(1)).to_contain_text("cosine")
    assert "2 x 2 places" in page.inner_text("#view-0")
    page.locator("#layer-0 input").click()
    page.get_by_role("option", name="block1", exact=True).click()
    expect(page.locator("#view-0 .sx-hint").first).to_contain_text("8 x 8 places")
    expect(page.locator("#view-1 .sx-hint").first).to_contain_text("2 x 2 places")
    assert first_map(page) != cam
    page.locator("#kind").get_by_text("CAM", exact=True).click()
    expect(page.locator("#view-0 .sx-hint").nth(1)).to_contain_text("attribution")
    assert first_map(page) == cam


def test_an_example_is_picked_in_place_of_an_upload(page: Page, digit: Path) -> None:
    upload(page, digit)
    expect(answers(page)).to_have_count(2)
    shown = page.locator("#view-0 .sx-picture img")
    before = shown.get_attribute("src")
    expect(page.locator("#examples button.thumbnail-item")).to_have_count(3)
    page.locator("#examples button.thumbnail-item").nth(1).click()
    expect(shown).not_to_have_attribute("src", str(before))
    page.locator("#examples button.thumbnail-item").nth(0).click()
    expect(shown).to_have_attribute("src", str(before))  # the very image that was uploaded


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("photo.png", b"only text", "The file is not an image in a supported format"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "The file is not an image"),
        (
            "huge.png",
            png_that_declares(8_000, 8_000),
            "8000 x 8000 pixels; pass one of at most 50 million pixels",
        ),
        ("long.png", bytes(10_000_001), "pass one of at most 10 MB"),
        ("cut.png", None, "The image is damaged or truncated"),
    ],
)
def test_files_of_strangers_get_one_sentence(
    name: str, content: bytes | None, sentence: str, page: Page, digit: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content or digit.read_bytes()[:-40])
    upload(page, path)
    expect(page.locator("#message [role=alert]")).to_contain_text(sentence)
    assert page.locator("[role=alert]").count() == 1
    assert answers(page).count() == 0
    assert "Traceback" not in page.inner_text("body")
    page.locator("#file button[aria-label]").first.click()
    expect(page.locator("#message [role=alert]")).to_have_count(0)
    upload(page, digit)
    expect(answers(page)).to_have_count(2)


def sent(address: str, data: list[Any]) -> bytes:
    """What the app answers a client that is no browser with this page."""
    config = json.load(urllib.request.urlopen(f"{address}/config"))
    upload = next(each for each in config["dependencies"] if each["targets"][0][1] == "upload")
    body = json.dumps({"data": data, "fn_index": upload["id"], "session_hash": "stranger"})
    queue = f"{address}/gradio_api/queue"
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{queue}/join", body.encode(), headers))
    with urllib.request.urlopen(f"{queue}/data?session_hash=stranger", timeout=60) as events:
        return next(line for line in events if b"process_completed" in line)


def file_at(path: str) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "http://127.0.0.1:9/a.png"])
@pytest.mark.parametrize("field", [0, 1, 3])
def test_paths_and_urls_in_place_of_files_are_refused(path: str, field: int, address: str) -> None:
    """In the file's field and in others: Gradio would fetch URLs for any."""
    data: list[Any] = [None, "cam", 10, "", ""]
    data[field] = file_at(path)
    with pytest.raises(urllib.error.HTTPError) as refused:
        sent(address, data)
    assert refused.value.code == 400
    assert b"A URL or a path was sent instead of a file" in refused.value.read()


def test_choices_that_are_not_offered_are_refused(address: str) -> None:
    for data in (
        [None, "cams", 10, "", ""],
        [None, "cam", 10, "head", ""],
        [None, "cam", 9, "", ""],
    ):
        assert b'"success":false' in sent(address, data)
    assert b'"success":true' in sent(address, [None, "cam", 10, "", ""])


@pytest.fixture(scope="module")
def many(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with sixty classes of other names."""
    folder = Path(shutil.copytree(runs[1], tmp_path_factory.mktemp("many") / "many"))
    record = read_json(folder / "run.json")
    record["images"]["class_names"] = [f"<b>a long name {k}</b>${{k}}" for k in range(60)]
    (folder / "run.json").write_text(json.dumps(record))
    weights = load_file(folder / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].repeat_interleave(6, dim=0).contiguous()
    save_file(weights, folder / "model.safetensors")
    (folder / "result.json").unlink()  # which says what the weights must be
    return folder


def test_many_classes_are_drawn_on_demand_and_their_difference_is_told(
    many: Path, runs: Runs, browser: Browser, digit: Path
) -> None:
    with running([many, runs[1]]) as url:
        page = browser.new_page(viewport={"width": 375, "height": 900})
        page.goto(url)
        page.wait_for_selector("#file input[type=file]", state="attached")
        assert "only standard (many) knows <b>a long name 0</b>${k}" in page.inner_text(".sx-note")
        upload(page, digit)
        expect(page.locator("#view-0 .sx-map")).to_have_count(12)
        expect(page.locator("#view-1 .sx-map")).to_have_count(10)
        for choice, count in (("the first 48", 48), ("all", 60)):
            page.locator("#count").get_by_text(choice, exact=True).click()
            expect(page.locator("#view-0 .sx-map")).to_have_count(count)
        assert "<b>a long name" in page.inner_text("#view-0 .sx-answer")  # as text
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.close()


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(
    width: int, scheme: Any, browser: Browser, address: str, digit: Path
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#file input[type=file]", state="attached")
    upload(page, digit)
    expect(answers(page)).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    right = page.locator(".sx-run *, .sx-name-of-run, #kind label").evaluate_all(
        "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    assert right <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(",")[:3])) > 384) == (scheme == "light")
    if folder := os.environ.get("SCREENSHOTS"):
        time.sleep(0.5)  # until what fades has faded
        page.screenshot(path=f"{folder}/app-{scheme}-{width}.png", full_page=True)
    context.close()
