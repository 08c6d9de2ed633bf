"""The model card: names of strangers stay names in each of its languages."""

from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from selfexplain.errors import InputError
from selfexplain.report.model_card import LONGEST, as_markdown, model_card

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[cat](javascript:alert(1))",
    "![cat](http://127.0.0.1/x.png)",
    "<http://127.0.0.1/>",
    "http://127.0.0.1/x www.stranger.invalid",
    "cat\n---\nlicense: mit\n---\n# Heading",
    "cat\r\n\r\n<b>x</b>",
    "cat\u2028# Heading",
    "a | b || c",
    "`code` ``code``",
    "**bold** __bold__ ~~gone~~ *it* _it_",
    "$x^2$ $$x$$ \\(x\\) \\\\(x\\\\)",
    "&lt;b&gt; &#60;b&#62;",
    "\\<b>\\`",
    "[1]: http://127.0.0.1",
    "[^1] @somebody #12 :smile:",
    "{{ x }} {% x %} ${x}",
    "\"quoted\": 'single', {a: b}, *anchor &anchor !!python/object:os.system",
    "\u202egnp.exe",
    "<!-- comment",
    "</code></pre><b>",
    "![][1]",
    "<details open ontoggle=alert(1)>",
]
RESULT = {"accuracy": 97.5, "nll": 0.1}


def card(name: str, **changes: Any) -> str:
    """A card with a name wherever one can stand."""
    config = {"objective": name, "seed": 0, "model": name, "data": {"data": name}}
    environment = {"commit": name, "versions": {name: name}}
    return model_card(config, changes.get("result", RESULT), environment, [name, "dog"], (1, 8, 8))


class Seen(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(f"{tag}{attrs if tag != 'code' else ''}")

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(card: str) -> Seen:
    """What another library makes of a card below its metadata, HTML allowed."""
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True})
    seen = Seen()
    seen.feed(parser.enable(["table", "strikethrough"]).render(card.split("\n---\n", 1)[1]))
    return seen


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_and_is_nothing_else(name: str) -> None:
    seen, plain = rendered(card(name)), rendered(card("cat"))
    assert seen.tags == plain.tags
    shown = "".join(" " if letter in "\r\n\u2028" else letter for letter in name)
    assert shown.replace("\u202e", "\ufffd") in seen.text


@pytest.mark.parametrize(
    "name", [*HOSTILE, "emoji \U0001f600", "nul\0\x7f\x9b", "\udcff", "a: b # c"]
)
def test_metadata_is_yaml_whatever_the_names(name: str) -> None:
    written = card(name)
    written.encode()  # a name that is no text would fail here
    head = written.split("\n---\n", 1)[0].removeprefix("---\n")
    metadata = yaml.safe_load(head)
    assert set(metadata) == {"library_name", "pipeline_tag", "tags", "model-index"}
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["name"] == result["dataset"]["type"]
    if name.isprintable():
        assert result["dataset"]["name"] == name
    assert {each["type"]: each["value"] for each in result["metrics"]} == RESULT


def test_long_names_are_cut_and_scripts_are_left_whole() -> None:
    assert len(as_markdown("a" * 10_000)) == LONGEST + 1
    for name in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f52c"):
        assert as_markdown(name) == name
    assert as_markdown("T-shirt/top (new), 100 %") == "T-shirt/top (new), 100 %"


def test_scores_that_are_no_numbers() -> None:
    assert "| nll |" not in card("cat", result={"accuracy": 1.0, "nll": float("nan"), "ece": None})
    for value in ("<b>", [1], True, {}):
        with pytest.raises(InputError, match=r"accuracy in .* is not a number"):
            card("cat", result={"accuracy": value})
