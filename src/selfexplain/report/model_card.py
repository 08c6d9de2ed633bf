"""The card of a trained classifier for the Hugging Face hub: Markdown with metadata above."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.errors import InputError

SCORES = {
    "accuracy": "accuracy of the last epoch, percent",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score, in [0, 2]",
    "ece": "expected calibration error over 15 bins, percent",
}
"""Name in result.json -> what it is."""
LONGEST = 200
"""Characters of a name that are shown."""
UNTOLD = "Its weights were given: nothing is recorded of how it was trained."
LIMITS = (
    "One run of one seed, scored on images like those that it was trained on. Nothing is known of "
    "images from elsewhere."
)
JOINERS = "\u200c\u200d"
"""Invisible characters that some scripts, and some pictures, are written with."""


def model_card(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    class_names: Sequence[str],
    shape_CHW: Sequence[int],
) -> str:
    """Say what was trained, on what, how, and how good it is.

    Names come from wherever the images came from: each is escaped for the place that it stands in.

    Args:
        config: of the run, as `run.json` holds it.
        result: what `result.json` holds; nothing of a model that no run has trained.
        environment: of the run.
        class_names: K names.
        shape_CHW: of an image.

    Raises:
        InputError: a score of the result is no number.

    Example:
        >>> card = model_card(
        ...     {"objective": "standard", "seed": 0, "model": "small_cnn",
        ...      "data": {"data": "digits", "validation": 0.0}, "training": {"epochs": 2}},
        ...     {"accuracy": 97.5, "nll": 0.1}, {"commit": None, "versions": {}}, "ab", (1, 8, 8),
        ... )
        >>> card.splitlines()[0], "| accuracy | 97.5000 |" in card
        ('---', True)
    """
    data, scored = config["data"], "test images"
    if data.get("validation"):
        scored = f"a held-out share of {data['validation']:g} of the training images"
    kind = as_markdown(config.get("model", "network of a genotype"))
    scores = _scores(result)
    rows = [f"| {name} | {value:.4f} | {SCORES[name]} |" for name, value in scores.items()]
    return "\n".join(
        [
            *_metadata(config, scores),
            f"# {kind}" + (f", trained by {as_markdown(config['objective'])}" if result else ""),
            "",
            f"Classifies images of {' x '.join(map(as_markdown, shape_CHW))} (channels, height, "
            f"width) into {len(class_names)} classes: {_listed(class_names)}.",
            "",
            *(_scored(config, scored, rows) if result else [UNTOLD]),
            "",
            "## Use",
            "",
            "```python",
            "from selfexplain import from_pretrained",
            "",
            'classifier = from_pretrained("this repository, or a folder with its files")',
            "logits = classifier(pixels)  # (batch, channels, height, width) in [0, 1]",
            "```",
            "",
            *(_trained(config, environment) if result else ()),
            "## Limits",
            "",
            LIMITS if result else "It has not been scored here.",
            "",
        ]
    )


def _scored(config: Mapping[str, Any], scored: str, rows: Sequence[str]) -> list[str]:
    """The scores as a table."""
    place = as_markdown(config["data"]["data"])
    if config.get("recorder"):  # whose loop alone knows which of them are test images
        scored = "evaluation images"
        place = place.removeprefix("images of ")
    return [
        f"Scores on the {scored} of {place}, one seed ({as_markdown(config['seed'])}):",
        "",
        "| score | value | what it is |",
        "| --- | ---: | --- |",
        *rows,
    ]


def _trained(config: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """With what it was trained, and how."""
    return [
        "## Training",
        "",
        f"Commit of selfexplain: {as_markdown(environment.get('commit') or 'unknown')}. "
        f"Versions: {_versions(environment)}.",
        "",
        "```json",
        json.dumps(config, indent=1, sort_keys=True),
        "```",
        "",
    ]


def as_markdown(value: object) -> str:
    r"""A name as Markdown that shows it, on one line: no markup, link, HTML or formula of its own.

    Example:
        >>> as_markdown("<b>a_cat</b>")
        '&lt;b&gt;a\\_cat&lt;/b&gt;'
        >>> as_markdown("[x](javascript:1)")
        '&#91;x&#93;(javascript&#58;1)'
    """
    text = re.sub(r"[*_~#&<>\\\[\]{}!$|:@`^=]", _escaped, _on_one_line(value))
    return re.sub(r"(?i)(www)\.", r"\1&#46;", text)  # some readers make links of these


def _escaped(found: re.Match[str]) -> str:
    """A backslash where that suffices; entities for what other languages than Markdown read."""
    letter = found[0]
    if letter in "*_~#":
        return f"\\{letter}"
    return {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(letter, f"&#{ord(letter)};")


def _on_one_line(value: object) -> str:
    """Visible characters alone: no breaks, directions of writing, or bytes that are no text."""
    shown = "".join(
        letter
        if letter.isprintable() or letter in JOINERS
        else " "
        if letter.isspace()
        else "\ufffd"
        for letter in str(value)[: LONGEST + 1]
    )
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "\u2026"


def _scores(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores that there are."""
    scores = {}
    for name in SCORES:
        value = result.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(
                f"{name} in the run's result.json is not a number; pass a run with intact files"
            )
        if value is not None and math.isfinite(value):
            scores[name] = float(value)
    return scores


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions", {})
    return ", ".join(f"{as_markdown(name)} {as_markdown(v)}" for name, v in versions.items())


def _metadata(config: Mapping[str, Any], scores: Mapping[str, float]) -> list[str]:
    """YAML that the hub reads."""
    head = [
        "---",
        "library_name: selfexplain",
        "pipeline_tag: image-classification",
        "tags: [selfexplain, image-classification]",
    ]
    if not scores:
        return [*head, "---", ""]
    name = _as_yaml(f"{config.get('model', 'derived')} {config['objective']}")
    data = _as_yaml(config["data"]["data"])
    return [
        *head,
        "model-index:",
        f"- name: {name}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {data}, type: {data}}}",
        "    metrics:",
        *(f"    - {{type: {metric}, value: {value:.4f}}}" for metric, value in scores.items()),
        "---",
        "",
    ]


def _as_yaml(value: object) -> str:
    """A text in quotes: JSON is YAML, but for pairs of escapes that stand for one character."""
    return json.dumps(_on_one_line(value), ensure_ascii=False)


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(map(as_markdown, names[:most]))
    return shown if len(names) <= most else f"{shown}, and {len(names) - most} more"
