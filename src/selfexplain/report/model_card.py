"""The card of a trained classifier for the Hugging Face hub: Markdown with metadata above."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

SCORES = {
    "accuracy": "accuracy of the last epoch, percent",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score, in [0, 2]",
    "ece": "expected calibration error over 15 bins, percent",
}
"""Name in result.json -> what it is."""


def model_card(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    class_names: Sequence[str],
    shape_CHW: Sequence[int],
) -> str:
    """Say what was trained, on what, how, and how good it is.

    Args:
        config: of the run, as `run.json` holds it.
        result: what `result.json` holds.
        environment: of the run.
        class_names: K names.
        shape_CHW: of an image.

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
    kind = config.get("model", "network of a genotype")
    rows = [
        f"| {name} | {result[name]:.4f} | {SCORES[name]} |" for name in SCORES if name in result
    ]
    return "\n".join(
        [
            *_metadata(config, result),
            f"# {kind}, trained by {config['objective']}",
            "",
            f"Classifies images of {' x '.join(map(str, shape_CHW))} (channels, height, width) "
            f"into {len(class_names)} classes: {_listed(class_names)}.",
            "",
            f"Scores on the {scored} of `{data['data']}`, one seed ({config['seed']}):",
            "",
            "| score | value | what it is |",
            "| --- | ---: | --- |",
            *rows,
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
            "## Training",
            "",
            f"Commit of selfexplain: {environment.get('commit') or 'unknown'}. Versions: "
            f"{', '.join(f'{k} {v}' for k, v in environment.get('versions', {}).items())}.",
            "",
            "```json",
            json.dumps(config, indent=1, sort_keys=True),
            "```",
            "",
            "## Limits",
            "",
            "One run of one seed, scored on images like those that it was trained on. Nothing is "
            "known of images from elsewhere.",
            "",
        ]
    )


def _metadata(config: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """YAML that the hub reads; strings are quoted as JSON, which is YAML."""
    name = json.dumps(f"{config.get('model', 'derived')} {config['objective']}")
    data = json.dumps(config["data"]["data"])
    return [
        "---",
        "library_name: selfexplain",
        "pipeline_tag: image-classification",
        "tags: [selfexplain, image-classification]",
        "model-index:",
        f"- name: {name}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {data}, type: {data}}}",
        "    metrics:",
        *(
            f"    - {{type: {metric}, value: {result[metric]:.4f}}}"
            for metric in SCORES
            if metric in result
        ),
        "---",
        "",
    ]


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, and {len(names) - most} more"
