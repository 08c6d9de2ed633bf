"""A report as one HTML file: the page, and the parts that its sections are made of.

Shape suffixes: C channels, H and W space, B images, R shown classes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

from selfexplain.report.style import PALETTE, STYLES

# Templates: the HTML is in files, and what is filled in is escaped, but for other pieces of HTML.


def render(template: str, package: str = "selfexplain.report", /, **context: object) -> Markup:
    """Fill in a template of a package's folder `templates`.

    Args:
        template: name of the file.
        package: that has it.
        context: the variables of the template. Text is escaped; HTML is what was rendered before,
            or `markupsafe.Markup`.

    Raises:
        jinja2.UndefinedError: the template needs a variable that is not given.

    Example:
        >>> table = {"header": ["name"], "rows": [["a < b"]], "caption": "names"}
        >>> "a &lt; b" in render("results.html", table=table)
        True
    """
    return Markup(_environment(package).get_template(template).render(context))  # noqa: S704


@cache
def _environment(package: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only pages wait for it

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png_uri": png_uri, "breakable": _breakable, "g": "{:g}".format}
    return environment


def _breakable(name: object) -> Markup:
    """A name of a method with options, which may be broken after each of them."""
    return Markup(re.sub(r"([:,])(?=\S)", r"\1<wbr>", str(escape(name))))  # noqa: S704


def part(
    macro: str, /, *args: object, package: str = "selfexplain.report", **options: object
) -> Markup:
    """What one of the macros in a package's `parts.html` writes.

    Example:
        >>> 'alt="a &lt; b"' in part("image", np.zeros((1, 1, 3), np.uint8), "a < b", 9)
        True
    """
    made: Markup = getattr(_environment(package).get_template("parts.html").module, macro)(
        *args, **options
    )
    return made


# The page, and what it may be made of without a template of one's own.


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page.

    Args:
        title: its heading, as text.
        body: its content: HTML, as `render`, `table` and the like return it, with headings that
            begin at h3; or text, which becomes one paragraph.
        parts: sections inside this one, below its body; they have no parts of their own.
        group: the run or folder that it is about, as text: sections that follow one another with
            the same group stand together in the table of contents. "" if it is about all.

    Example:
        >>> Section("Results", "none yet").title
        'Results'
    """

    title: str
    body: Markup | str = ""
    parts: tuple[Section, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands first on a page about one folder: the verdict, then where it comes from.

    Args:
        name: of the folder, as text.
        verdict: the outcome in one line, as text.
        detail: what the verdict rests on, as text.
        facts: label and text, such as the command and the date.
    """

    name: str
    verdict: str
    detail: str = ""
    facts: tuple[tuple[str, str], ...] = ()


ALL = "All runs"
"""What the table of contents calls the sections without a group, where others have one."""


def page(
    title: str, sections: Sequence[Section], *, summary: str = "", heads: Sequence[Head] = ()
) -> Markup:
    """A self-contained HTML page: style and script are inlined, and it links to itself alone.

    Args:
        title: of the page, as text.
        sections: in the order in which they are shown; the table of contents names them.
        summary: one paragraph below the title, as text.
        heads: one for each folder that the page is about: its first lines are their verdicts, and
            the title follows.

    Example:
        >>> html = page("Report", [Section("One", "first")])
        >>> html.startswith("<!doctype html>"), '<h2 id="section-1">One</h2>' in html
        (True, True)
    """
    return render(
        "page.html",
        title=title,
        groups=_grouped(sections),
        summary=summary,
        heads=heads,
        colours=Markup(colours_css()),  # noqa: S704
    )


def _grouped(sections: Sequence[Section]) -> list[tuple[str, list[tuple[int, Section]]]]:
    """The sections with their numbers, by group; a lone group has no name."""
    numbered = enumerate(sections, start=1)
    groups = [
        (name, list(members)) for name, members in groupby(numbered, lambda pair: pair[1].group)
    ]
    if len(groups) < 2:
        return [("", members) for _, members in groups]
    return [(name or ALL, members) for name, members in groups]


def download(label: str, file: str, text: str) -> Markup:
    """A link that saves a text as a file; the text is in the link.

    Args:
        label: of the link, as text.
        file: name that the browser proposes.
        text: what the file holds.

    Example:
        >>> download("CSV", "a.csv", "x,y")
        Markup('<a download="a.csv" href="data:text/plain;charset=utf-8,x%2Cy">CSV</a>')
    """
    link = '<a download="{}" href="data:text/plain;charset=utf-8,{}">{}</a>'
    return Markup(link).format(file, quote(text), label)  # noqa: S704 - format escapes


def paragraph(text: str) -> Markup:
    """One paragraph of text.

    Example:
        >>> paragraph("a < b")
        Markup('<p>a &lt; b</p>')
    """
    return Markup("<p>{}</p>").format(text)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    words: int = 1,
    swatches: Mapping[str, int] = MappingProxyType({}),
) -> Markup:
    """A table: the first column names its row, the last ones hold numbers and stand to the right.

    Args:
        header: headings of the columns, as text.
        rows: cells, as text.
        caption: how its numbers were made, as text; it stands below and names the frame in which
            the table scrolls where the page is narrow.
        words: number of first columns that hold words and stand to the left.
        swatches: name of a row -> number of the colour that stands before it (`series_of`).

    Example:
        >>> html = table(["name", "%"], [["a<b", "1.0"]], caption="shares")
        >>> '<th scope="row">a&lt;b</th><td>1.0</td>' in html
        True
    """
    return part("table", header, rows, caption=caption, words=words, swatches=swatches)


def slider(label: str, frames: Sequence[Markup], captions: Sequence[str]) -> Markup:
    """A range input that shows one of several pieces of HTML; at first, the last.

    Args:
        label: what the slider goes through, as text.
        frames: pieces of HTML, at least one.
        captions: one for each frame, as text.

    Raises:
        ValueError: there is no frame, or there are not as many captions as frames.

    Example:
        >>> html = slider("epoch", [paragraph("a"), paragraph("b")], ["first", "second"])
        >>> html.count(' hidden data-caption="first"'), '<p aria-live="polite">second</p>' in html
        (1, True)
    """
    if len(frames) != len(captions) or not frames:
        raise ValueError(
            f"there are {len(frames)} frames and {len(captions)} captions; "
            "pass at least one frame, and a caption for each"
        )
    return part("slider", label, captions, caller=frames.__getitem__)


def image(pixels_HWC: np.ndarray, alt: str, *, size: int) -> Markup:
    """An image as a PNG in a data URI, drawn with sharp pixels.

    Args:
        pixels_HWC: uint8, with 1 (grey), 3 (RGB) or 4 (RGBA) channels.
        alt: what it shows, as text; "" for decoration.
        size: width on the page in CSS pixels; the height follows.

    Raises:
        ValueError: the array is not of this shape or type.

    Example:
        >>> image(np.zeros((2, 4, 1), np.uint8), "black", size=40).endswith(
        ...     'alt="black" width="40" height="20">')
        True
    """
    return part("image", pixels_HWC, alt, size)


def png_uri(pixels_HWC: np.ndarray) -> str:
    """The data URI of an image as a PNG.

    Raises:
        ValueError: the array is not uint8 of 1, 3 or 4 channels.

    Example:
        >>> png_uri(np.zeros((1, 1, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"pixels are {pixels_HWC.dtype} of shape {pixels_HWC.shape}; "
            "pass uint8 of shape (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    grey = pixels_HWC.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def jpeg_uri(pixels_HWC: np.ndarray) -> str:
    """The data URI of a photograph as a JPEG, a fifth as large as its PNG.

    Args:
        pixels_HWC: uint8, with 1 (grey) or 3 (RGB) channels.

    Example:
        >>> jpeg_uri(np.zeros((1, 1, 3), np.uint8))[:23]
        'data:image/jpeg;base64,'
    """
    grey = pixels_HWC.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


# Lines of figures that have one colour on a light page and another on a dark one.


DARK = {style.light: style.dark for style in STYLES.values()}
"""Colour of an operation's line on white -> on black."""


def for_both_themes(svg: Markup) -> Markup:
    """The colours of lines as variables that `colours_css` sets, by theme.

    Args:
        svg: a figure that draws operations, or other lines in one of their colours.

    Example:
        >>> for_both_themes(Markup("stroke: #0069a8"))
        Markup('stroke: var(--c-0069a8, #0069a8)')
    """
    for colour in DARK:
        svg = svg.replace(colour, f"var({variable(colour)}, {colour})")
    return svg


def variable(colour: str) -> str:
    """Name of the CSS variable of a line's colour.

    Example:
        >>> variable("#0069a8")
        '--c-0069a8'
    """
    return f"--c-{colour[1:]}"


def colours_css() -> str:
    """Rules that set the variables of all colours on white and on black.

    Example:
        >>> colours_css()[:24]
        ':root{--c-8a8a8a:#8a8a8a'
    """
    light = ";".join(f"{variable(colour)}:{colour}" for colour in DARK)
    dark = ";".join(f"{variable(colour)}:{on_black}" for colour, on_black in DARK.items())
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


# Matplotlib's figures as inline SVG that takes the colour and the fonts of the page.


INK = "#000000"
"""What is drawn in black takes the colour of the page's text."""
PAPER = "#ffffff"
"""What is drawn in white, such as hollow points, takes the colour of the page."""
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "selfexplain",
    "image.composite_image": False,
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def figure(figure: Figure, alt: str) -> Markup:
    """A figure as inline SVG; what is black in it becomes the page's text colour, light or dark.

    The colours of `report/style.py` take the page's shades of them, too. The same figure gives
    the same text, at any time.

    Args:
        figure: without a background of its own; it is left as it was.
        alt: what it shows, as text, for those who cannot see it.

    Example:
        >>> from matplotlib.figure import Figure
        >>> drawn = Figure(figsize=(3, 2)); _ = drawn.subplots().plot([1, 2], color="black")
        >>> html = figure(drawn, "a rising line")
        >>> 'role="img" aria-label="a rising line"' in html, INK in html, "currentColor" in html
        (True, False, True)
    """
    file = io.StringIO()
    import matplotlib as mpl  # not above: the app draws without

    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        # Text is drawn by the browser, whose fonts have more glyphs than matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = _with_own_ids(svg, hashlib.sha256((alt + svg).encode()).hexdigest()[:8])
    # Black is SVG's default and matplotlib leaves it out at times: the root sets it for all.
    opening = f'<svg role="img" aria-label="{escape(alt)}" fill="currentColor"'
    svg = _in_colours_of_page(svg).replace("<svg", opening, 1)
    return Markup(f'<div class="chart">{svg}</div>')  # noqa: S704 - by Matplotlib, which escapes


def _in_colours_of_page(svg: str) -> str:
    """The page has a shade of every colour for light and one for dark."""
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    for place, colour in enumerate(PALETTE, start=1):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg


def _with_own_ids(svg: str, prefix: str) -> str:
    """Prefix the names that are referred to and drop the others: two figures share none."""
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))

    def own(match: re.Match[str]) -> str:
        return f' id="f{prefix}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', own, svg)
    return re.sub(r"(url\(|href=\")#", rf"\g<1>#f{prefix}-", svg)


# Which of many epochs a slider shows.


FRAMES = 20
"""At most so many: more make the page heavy and the slider no better."""


def linspace_indices(count: int, most: int = FRAMES) -> list[int]:
    """Up to `most` of the indices 0 to count - 1, evenly spaced, the first and last among them.

    Example:
        >>> linspace_indices(3), linspace_indices(9, most=3)
        ([0, 1, 2], [0, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


RED, BLUE = (202, 0, 32), (5, 80, 174)
"""For the class, against it; told apart by the colour-blind too."""
STRONG = 0.8
"""Opacity where a map is greatest."""
PALE = 110
"""What black becomes in pale grey."""
IMAGE_SIDE, MAP_SIDE = 96, 48
"""Most pixels of a side that the report keeps."""


def map_pixels(map_HW: Tensor, scale: float, *, side: int = MAP_SIDE) -> np.ndarray:
    """A class map as RGBA (H, W, 4), uint8: red for the class, blue against, clear at 0.

    Args:
        map_HW: a class map.
        scale: the absolute value that is drawn strongest, above 0.
        side: most pixels of a side; means over areas make finer maps smaller.

    Example:
        >>> map_pixels(torch.tensor([[1.0, -1.0, 0.0]]), 1.0)[0].tolist()
        [[202, 0, 32, 204], [5, 80, 174, 204], [5, 80, 174, 0]]
    """
    small_HW = shrunk(map_HW[None].float(), side)[0]
    share_HW = (small_HW / scale).clamp(-1, 1)
    colour_HW3 = torch.where((share_HW > 0)[..., None], torch.tensor(RED), torch.tensor(BLUE))
    alpha_HW1 = (share_HW.abs() * STRONG * 255).round()[..., None]
    pixels: np.ndarray = torch.cat([colour_HW3, alpha_HW1], dim=-1).byte().numpy()
    return pixels


def image_pixels(image_CHW: Tensor, *, grey: bool = False, side: int = IMAGE_SIDE) -> np.ndarray:
    """A uint8 image (C, H, W) as (H, W, C).

    Args:
        image_CHW: uint8.
        grey: in pale grey, over which the colours of a map are seen where the image is dark too.
        side: most pixels of a side; means over areas make larger images smaller.

    Example:
        >>> image_pixels(torch.zeros(3, 200, 100, dtype=torch.uint8), grey=True).shape
        (96, 48, 1)
    """
    image = shrunk(image_CHW.float(), side)
    if grey:
        image = PALE + (1 - PALE / 255) * image.mean(dim=0, keepdim=True)
    pixels: np.ndarray = image.round().byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def shrunk(x_CHW: Tensor, side: int) -> Tensor:
    """Means over areas, so that no side is longer than `side`; what is small enough stays.

    Example:
        >>> shrunk(torch.zeros(1, 4, 2), 2).shape
        torch.Size([1, 2, 1])
    """
    height, width = x_CHW.shape[1:]
    factor = side / max(height, width)
    if factor >= 1:
        return x_CHW
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(x_CHW[None].float(), size=size, mode="area")[0]
