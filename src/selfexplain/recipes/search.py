"""Search for an architecture, and write down how it went.

A search's folder holds `run.json` (configuration, environment), then after every epoch
`search.jsonl` and `checkpoint.pt`, and at the end `genotype.json`, `cell.svg`, `architecture.png`
and `result.json`.
"""

from typing import Any

import torch

from selfexplain.data import ImageData
from selfexplain.recipes.environment import environment
from selfexplain.recipes.folder import claim_folder, locked
from selfexplain.recipes.options import DeviceOptions, plain
from selfexplain.recipes.prepare import load, prepare
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.search_outcome import collapsed, skip_connections, write_outcome
from selfexplain.recipes.search_progress import SearchProgress, StepCallback
from selfexplain.recipes.search_setup import Halves, build_search
from selfexplain.recipes.train import launch
from selfexplain.spaces import Genotype, random_genotype, to_string
from selfexplain.training import TrainingOptions
from selfexplain.training.files import read_json, write_json


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
    identity = claim_folder(config)
    done = config.out / "result.json"
    if done.exists():
        return read_json(done)
    with locked(config.out, patience):
        if config.method == "random":
            return _random_cell(config)
        device = launch(DeviceOptions(accelerator=config.accelerator), TrainingOptions()).device
        data = data if data is not None else load(config.data)
        prepared = prepare(data, config.data, config.seed)
        search = build_search(config, data, prepared.std_C, device)
        halves = Halves(config, prepared, device)
        images = {"train": len(prepared.train), "held_out": len(prepared.scored)}
        _write_run(config, device, images)
        progress = SearchProgress(config, search, halves, prepared, device, identity)
        progress.run(on_step)
        write_outcome(config.out, progress.genotype, progress.log.read())
        return _write_result(config, progress.genotype, progress.outcome())


def _random_cell(config: SearchConfig) -> dict[str, Any]:
    """A cell drawn uniformly from the space: what a search must beat."""
    generator = torch.Generator().manual_seed(config.seed)
    family = "nasbench201" if config.space == "nasbench201" else "darts"
    genotype = random_genotype(family, generator)
    _write_run(config, torch.device("cpu"), {})
    write_outcome(config.out, genotype, [])
    return _write_result(config, genotype, {"epochs": 0})


def _write_result(config: SearchConfig, genotype: Genotype, more: dict[str, Any]) -> dict[str, Any]:
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
    write_json(config.out / "result.json", result)
    return result


def _write_run(config: SearchConfig, device: torch.device, images: dict[str, int]) -> None:
    write_json(
        config.out / "run.json",
        {
            "schema": 1,
            "config": plain(config, leave_out=("out", "resume")),
            "environment": environment(device),
            "images": images,
        },
    )
