"""Which part of a teacher's output carries the gain of distillation?

A comparison of plain training with students of parts of one teacher's output (`distil_part`); its
folder holds what a comparison's does, and `study.json`, `table.md` and `study.png`.
"""

from collections.abc import Sequence
from typing import Any

from selfexplain.evaluation import Share, share_of
from selfexplain.experiments.compare.compare import paired_accuracies, run_comparison
from selfexplain.experiments.compare.grid import stored
from selfexplain.experiments.options import StudyKDConfig, first_process, part_spec
from selfexplain.files import write_record
from selfexplain.launchers import Store, Watch, ignore
from selfexplain.limits import is_url
from selfexplain.objectives.options import PARTS


def run_study(
    config: StudyKDConfig, watch: Watch = ignore, *, store: Store | None = None
) -> dict[str, Any]:
    """Run or continue a study; return what `study.json` holds.

    Args:
        config: the whole configuration.
        watch: is told how its runs get on.
        store: as for `run_comparison`.

    Raises:
        InputError: the folder holds another comparison, or the configuration cannot be used.
    """
    if is_url(config.out):
        with stored(config) as (here, opened):
            return run_study(here, watch, store=opened)
    study = study_of(run_comparison(config, watch, store=store))
    if first_process():
        write_record(config.out / "study.json", study)
    return study


def study_of(results: dict[str, Any]) -> dict[str, Any]:
    """The gains over the first objective of a comparison, and shares of the second's gain.

    Both are paired by seed, over the seeds that have all the runs that are needed. A gain without
    such a seed is None, and so is its share.
    """
    # Of an unfinished study the summary may lack the second.
    plain, full = results["config"]["objectives"][:2]
    full_gains = _gains(results["rows"], full, plain)
    rows = []
    for line in results["summary"]:
        spec = line["objective"]
        share = _share(_gains(results["rows"], spec, plain), full_gains)
        rows.append(
            {
                **line,
                "part": {plain: "plain", full: "full"}.get(spec, part_name(spec)),
                "gain_mean": line["difference_mean"],
                "gain_ci95": line["difference_ci95"],
                "share": share.ratio,
                "share_ci95": share.ci95,
            }
        )
    return {"schema": 1, "config": results["config"], "rows": rows}


def _gains(rows: Sequence[dict[str, Any]], spec: str, plain: str) -> dict[int, float]:
    """Seed -> gain of an objective in accuracy over plain training with the same seed."""
    pairs = paired_accuracies(rows, spec, plain)
    return {seed: mine - baseline for seed, (mine, baseline) in pairs.items()}


def _share(part: dict[int, float], whole: dict[int, float]) -> Share:
    """Share of one gain in another, over the seeds that both have."""
    both = [seed for seed in part if seed in whole]
    return share_of([part[seed] for seed in both], [whole[seed] for seed in both])


def part_name(spec: str) -> str:
    """Name of a student in tables: its part's, where that says all of it."""
    return {part_spec(part): str(part) for part in PARTS}.get(spec, spec)
