"""All parts of a search's report, in the order in which they are read."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from selfexplain.report.cell_drawing import cell_svg
from selfexplain.report.html import Section, linspace_indices, render, table
from selfexplain.report.sections.search_curves import (
    NO_EPOCH,
    alphas_part,
    losses_part,
    snapshots_part,
)
from selfexplain.report.sections.search_record import SearchRecord
from selfexplain.report.tables import searches_caption
from selfexplain.spaces import from_string

# The tables of a search's report: what was searched, what was found, what that is worth.


NOTHING = "\N{EN DASH}"


def summary_table(record: SearchRecord) -> Markup:
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
    planned, result = record.planned_epochs, record.result
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
        return "a cell sampled uniformly from the space; nothing was trained"
    if record.config["method"] == "all_conv3x3":
        return "a 3x3 convolution on every edge; nothing was trained"
    parts = [
        "accuracy: of the supernet, on the half of the images that trains the architecture",
        "time: on the machine that ran it, without scoring",
        "collapsed: more than half of the edges are skip connections",
    ]
    skipped = (record.result or {}).get("skipped_steps")
    return "; ".join(
        parts + ([f"{skipped} steps skipped because they were not finite"] if skipped else [])
    )


def method_name(config: Mapping[str, Any]) -> str:
    """The method, with the base, selection, control or gradient path that make it another one.

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
    base = config.get("base", {})
    words += [f"{name} {base[name]}" for name in ("base", "select") if name in base]
    if config.get("validation_labels", "true") != "true":
        words.append(f"{config['validation_labels']} validation labels")
    return ", ".join(words)


def seeds_table(results: Mapping[str, Any]) -> Markup:
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


def lookups_table(lookups: Sequence[Mapping[str, Any]]) -> Markup:
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
        "CIFAR-100, from the benchmark's table, mean over a cell's seeds; "
        "seed std: of validation and test images together; rank by test accuracy, 1 is best, = is "
        "shared; beats: share of the other cells that are worse"
    )
    return table(header, rows, caption=caption)


# The cell of a search at each epoch, as a drawn graph.


NBSP = "\N{NO-BREAK SPACE}"


def cell_part(record: SearchRecord, mark: str) -> Markup | str:
    """The derived cell, by a slider over the epochs, each edge with its operation's weight.

    Args:
        record: of the search.
        mark: begins the drawings' ids; another one for each search of a page.

    Example:
        >>> skips = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
        >>> config = {"method": "random", "space": "nasbench201", "seed": 0, "epochs": 50}
        >>> record = SearchRecord(config=config, result={"genotype": skips})
        >>> cell_part(record, "a").count("<svg")
        1
    """
    if not record.history and record.result is None:
        return NO_EPOCH
    chosen = [record.history[index] for index in linspace_indices(len(record.history))]
    drawn = [_drawing(line, f"{mark}-{line['epoch']}") for line in chosen]
    result = record.result or {}
    if not chosen:
        drawn = [cell_svg(from_string(result["genotype"]), mark=mark)]
    last = chosen[-1]["genotype"] if chosen else None
    return render(
        "search_cell.html",
        method=record.config["method"],
        captions=[_epoch_caption(line, record.planned_epochs) for line in chosen],
        cells=[Markup(svg) for svg in drawn],  # noqa: S704 - written by cell_svg
        # Where the result is not the cell of the last epoch, it is named.
        kept=result.get("genotype") if result.get("genotype") != last else None,
    )


def _drawing(line: Mapping[str, Any], mark: str) -> str:
    return cell_svg(from_string(line["genotype"]), weights=line["weights"], mark=mark)


def _epoch_caption(line: Mapping[str, Any], epochs: int) -> str:
    return (
        f"after epoch {line['epoch']} of {epochs}: {100 * line['skip_share']:.0f}{NBSP}% of its "
        f"edges are skip connections; supernet's accuracy {line['validation_accuracy']:.2f}{NBSP}%"
    )


def search_parts(record: SearchRecord, *, mark: str = "cell") -> list[Section]:
    """A section for each part that a search has.

    Args:
        record: of the search.
        mark: begins ids in the HTML; another one for each search of a page.

    Example:
        >>> skips = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
        >>> config = {"method": "random", "space": "nasbench201", "seed": 0, "epochs": 50}
        >>> result = {"genotype": skips, "skips": 1, "edges": 6, "collapsed": False, "epochs": 0}
        >>> record = SearchRecord(config=config, result=result)
        >>> [section.title for section in search_parts(record)]
        ['Search', 'Cell']
    """
    parts = [
        Section("Search", summary_table(record)),
        Section("Cell", cell_part(record, mark)),
    ]
    if record.searched:
        parts.append(Section("Architecture", alphas_part(record)))
        parts.append(Section("Losses", losses_part(record)))
    if record.explains:
        parts.append(Section("What the audience was shown", snapshots_part(record)))
    if record.lookups:
        parts.append(Section("Lookup", lookups_table(record.lookups)))
    return parts
