"""Search for an architecture, on one process or on those of torchrun, and write down how it went.

A search's folder holds `run.json` (configuration, environment), then after every epoch
`search.jsonl`, `checkpoint.pt` and, if the method explains, its `album/` (search_album.py), and at
the end `genotype.json`, `cell.svg`, `architecture.png` and `result.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from selfexplain.data import ImageData
from selfexplain.data.load import check_spec
from selfexplain.models.build import check_model_name
from selfexplain.recipes.environment import environment
from selfexplain.recipes.folder import claim_folder, kept_said, locked
from selfexplain.recipes.launch import launch
from selfexplain.recipes.logging import logged
from selfexplain.recipes.options import DeviceOptions, plain
from selfexplain.recipes.prepare import load, prepare
from selfexplain.recipes.read_records import read_search_result
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.search_outcome import collapsed, skip_connections, write_outcome
from selfexplain.recipes.search_progress import SearchProgress, StepCallback
from selfexplain.recipes.search_setup import Halves, build_search
from selfexplain.spaces import Genotype, random_genotype, to_string
from selfexplain.training import TrainingOptions
from selfexplain.training.files import write_record
from selfexplain.training.loggers import Logger, numbers
from selfexplain.training.processes import joined_processes
from selfexplain.training.shortage import shortage_said

if TYPE_CHECKING:  # a refusal comes before its seconds of import
    from lightning_fabric import Fabric


def run_search(
    config: SearchConfig,
    *,
    data: ImageData | None = None,
    on_step: StepCallback = lambda done, total: None,
    patience: float = 0.0,
) -> dict[str, Any]:
    """Search as the configuration says; return what `result.json` holds.

    Args:
        config: the whole configuration; it is saved in the folder.
        data: the data set, if the caller has loaded it already.
        on_step: called after every step with the number of steps done and of the whole search's.
        patience: seconds to wait for another process to leave the folder.

    Raises:
        InputError: the folder holds another run, or anything in the configuration cannot be used.
        ShortageError: the GPU has no memory left; the last checkpoint is kept.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> out = Path(tempfile.mkdtemp()) / "search"
        >>> options = DataOptions(data="digits", train_size=64)
        >>> config = SearchConfig(data=options, method="random", out=out)
        >>> sorted(run_search(config))
        ['collapsed', 'edges', 'epochs', 'genotype', 'method', 'seed', 'skips', 'space']
    """
    if config.method == "lease":
        check_model_name(config.audience)  # before any data are read
    identity = claim_folder(config)
    done = config.out / "result.json"
    if done.exists():
        return read_search_result(done)
    remedy = "pass a smaller --batch-size, or let fewer searches share the GPU"
    if data is None:
        check_spec(config.data.data)
    with locked(config.out, patience), kept_said(config.out), shortage_said(remedy):
        fabric = launch(DeviceOptions(accelerator=config.accelerator), TrainingOptions())
        fabric.barrier()  # every process has looked at the folder before one writes to it
        result: dict[str, Any] = {}
        with logged(config, first=fabric.is_global_zero) as loggers:
            if config.method != "random":
                result = _search(config, identity, fabric, data, on_step, loggers)
            elif fabric.is_global_zero:
                result = _random_cell(config, loggers)
        return fabric.broadcast(result)  # once the first process has written


def _search(
    config: SearchConfig,
    identity: str,
    fabric: Fabric,
    data: ImageData | None,
    on_step: StepCallback,
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    """Walk the search on every process; the first one writes and returns the result."""
    device, processes = fabric.device, joined_processes()
    data = data if data is not None else load(config.data)
    prepared = prepare(data, config.data, config.seed)
    search = build_search(config, data, prepared.std_C, device, processes)
    halves = Halves(config, prepared, device, processes)
    if fabric.is_global_zero:
        images = {
            "train": len(prepared.train),
            "held_out": len(prepared.scored),
            "class_names": list(prepared.class_names),
        }
        _write_run(config, device, images, processes.count)
    progress = SearchProgress(config, search, halves, prepared, device, identity, loggers)
    progress.run(on_step)
    if not fabric.is_global_zero:
        return {}
    write_outcome(config.out, progress.genotype, progress.lines())
    return _write_result(config, progress.genotype, progress.outcome(), loggers)


def _random_cell(config: SearchConfig, loggers: Sequence[Logger]) -> dict[str, Any]:
    """A cell drawn uniformly from the space: what a search must beat."""
    generator = torch.Generator().manual_seed(config.seed)
    family = "nasbench201" if config.space == "nasbench201" else "darts"
    genotype = random_genotype(family, generator)
    _write_run(config, torch.device("cpu"), {})
    write_outcome(config.out, genotype, [])
    return _write_result(config, genotype, {"epochs": 0}, loggers)


def _write_result(
    config: SearchConfig, genotype: Genotype, more: dict[str, Any], loggers: Sequence[Logger]
) -> dict[str, Any]:
    skips, edges = skip_connections(genotype)
    result = {
        "method": config.method,
        "space": config.space,
        "seed": config.seed,
        "genotype": to_string(genotype),
        "skips": skips,
        "edges": edges,
        "collapsed": collapsed(genotype),
        **more,
    }
    for logger in loggers:
        logger.finish(numbers(result))
    write_record(config.out / "result.json", result)
    return result


def _write_run(
    config: SearchConfig, device: torch.device, images: dict[str, Any], processes: int = 1
) -> None:
    write_record(
        config.out / "run.json",
        {
            "schema": 1,
            "config": plain(config, leave_out=("out", "resume")),
            "environment": {**environment(device), "processes": processes},
            "images": images,
        },
    )
