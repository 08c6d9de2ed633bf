"""In one sentence, what was trained on what, how long and where."""

from typing import Any


def facts(config: dict[str, Any], environment: dict[str, Any]) -> str:
    """What a saved configuration says that readers ask first; what it does not say is left out.

    Args:
        config: of a run or a comparison.
        environment: saved beside it; may be empty.

    Example:
        >>> facts({"model": "small_cnn", "data": {"data": "digits"}, "seeds": [0, 1],
        ...        "training": {"epochs": 30, "batch_size": 50}}, {})
        'small_cnn on digits, 30 epochs in batches of 50, seeds 0, 1.'
    """
    training = config.get("training", {})
    seeds = config.get("seeds", [config["seed"]] if "seed" in config else [])
    versions = environment.get("versions", {})
    parts = [
        f"{config.get('model', 'a network of a genotype')} on {config['data']['data']}"
        if "data" in config
        else "",
        f"{training['epochs']} epochs in batches of {training['batch_size']}" if training else "",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else "",
        str(environment.get("hardware", "")),
        f"selfexplain {versions['selfexplain']}" if "selfexplain" in versions else "",
    ]
    return f"{', '.join(part for part in parts if part)}."
