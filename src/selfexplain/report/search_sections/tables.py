"""The tables of a search's report: what was searched, what was found, what that is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.report.html.table import table
from selfexplain.report.search_sections.record import SearchRecord
from selfexplain.report.searches_table import searches_caption

NOTHING = "\N{EN DASH}"


def summary_table(record: SearchRecord) -> str:
    """Method, space, seed, accuracy, cost, skip connections: a row each, so that it is narrow.

    Example:
        >>> config = {"method": "random", "space": "darts", "seed": 3, "epochs": 50}
        >>> "unfinished" in summary_table(SearchRecord(config=config))
        True
    """
    result = record.result or {}
    last = record.history[-1] if record.history else {}
    accuracy = result.get("validation_accuracy", last.get("validation_accuracy"))
    header = ["method", method_name(record.config)]
    rows = {
        "space": record.config["space"],
        "seed": record.config["seed"],
        "epochs": _epochs(record),
        "supernet's accuracy": NOTHING if accuracy is None else f"{accuracy:.2f} %",
        "skip connections": _skips(result),
        "time of a step": f"{last['step_seconds']:.3g} s" if last else NOTHING,
        "time of all steps": _minutes(record),
    }
    return table(header, rows.items(), caption=_caption(record))


def _epochs(record: SearchRecord) -> str:
    planned, result = record.config["epochs"], record.result
    if result is None:
        return f"{len(record.history)} of {planned}, unfinished"
    stopped = f" of {planned}, stopped" if result.get("stopped_early") else ""
    return f"{result['epochs']}{stopped}"


def _skips(result: Mapping[str, Any]) -> str:
    if not result:
        return NOTHING
    return f"{result['skips']} of {result['edges']}{', collapsed' if result['collapsed'] else ''}"


def _minutes(record: SearchRecord) -> str:
    if not record.history or record.train_images is None:
        return NOTHING
    steps = record.train_images // record.config["batch_size"]
    seconds = sum(line["step_seconds"] * steps for line in record.history)
    return f"{seconds / 60:.1f} min"


def _caption(record: SearchRecord) -> str:
    if record.config["method"] == "random":
        return "a cell drawn uniformly from the space: nothing was trained"
    parts = [
        "accuracy: of the supernet, on the half of the training images that moves the architecture",
        "time: of the machine it ran on, without scoring",
        "collapsed: more than half of the edges are skip connections",
    ]
    skipped = (record.result or {}).get("skipped_steps")
    return "; ".join(parts + ([f"{skipped} steps skipped: not finite"] if skipped else []))


def method_name(config: Mapping[str, Any]) -> str:
    """The method, with the control or gradient path that makes it another one.

    Example:
        >>> method_name({"method": "lease", "options": {"control": "saliency"}})
        'lease, control saliency'
    """
    options = config.get("options", {})
    words = [str(config["method"])]
    if options.get("control", "none") != "none":
        words.append(f"control {options['control']}")
    if options.get("gradient_path"):
        words.append(f"gradient path {options['gradient_path']}")
    return ", ".join(words)


def seeds_table(results: Mapping[str, Any]) -> str:
    """A row for each seed of several searches; below, what the seeds have in common.

    Args:
        results: what `searches.json` holds.

    Example:
        >>> row = {"seed": 0, "skips": 1, "edges": 6, "collapsed": False, "epochs": 2}
        >>> summary = {"n": 1, "different_cells": 1, "collapsed": 0, "skips_mean": 1.0,
        ...            "skips_std": None, "validation_accuracy_mean": None}
        >>> "1 different cell from 1 seed" in seeds_table({"rows": [row], "summary": summary})
        True
    """
    rows = [
        [
            row["seed"],
            row["epochs"],
            f"{row['validation_accuracy']:.2f}" if "validation_accuracy" in row else NOTHING,
            _skips(row),
            f"{row['step_seconds']:.2f}" if "step_seconds" in row else NOTHING,
        ]
        for row in results["rows"]
    ]
    header = ["seed", "epochs", "supernet's accuracy, %", "skip connections", "s per step"]
    return table(header, rows, caption=searches_caption(results["summary"]))


def lookups_table(lookups: Sequence[Mapping[str, Any]]) -> str:
    """What cells reach in the table of NAS-Bench-201, one a row.

    Args:
        lookups: the cells of a `lookup.json`, at least one.

    Example:
        >>> found = {"name": "a", "test": 70.0, "validation": 69.0, "seed_std": None, "rank": 9,
        ...          "tied": 0, "percentile": 25.0, "params_m": 0.07, "cells": 12}
        >>> "<td>9 of 12</td>" in lookups_table([found])
        True
    """
    rows = [
        [
            found["name"],
            f"{found['test']:.2f}",
            f"{found['validation']:.2f}",
            NOTHING if found["seed_std"] is None else f"{found['seed_std']:.2f}",
            f"{'=' * bool(found['tied'])}{found['rank']} of {found['cells']}",
            f"{found['percentile']:.1f}",
            f"{found['params_m']:.3f}",
        ]
        for found in lookups
    ]
    header = ["cell", "test, %", "validation, %", "seed std", "rank", "beats, %", "params, M"]
    caption = (
        "CIFAR-100 after 200 epochs, mean over a cell's seeds, from the table of NAS-Bench-201; "
        "seed std: of validation and test images together; rank by test accuracy, 1 is best, = is "
        "shared; beats: share of the other cells that are worse"
    )
    return table(header, rows, caption=caption)
