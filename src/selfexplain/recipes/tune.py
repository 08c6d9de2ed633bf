"""Options of objectives chosen before a comparison: the same number of trials for every method.

A trial is an ordinary run in OUT/tune/runs, on a part of the training images, scored on the rest of
them; the test images are not touched. The same command again runs none of them twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from selfexplain.errors import InputError
from selfexplain.recipes.free_options import Value, free_options, whole_numbers, with_options
from selfexplain.recipes.objectives import option_values
from selfexplain.recipes.options import CompareConfig
from selfexplain.recipes.optuna_tuner import OptunaTuner
from selfexplain.recipes.runs import train_config
from selfexplain.recipes.trials import Outcome, RunTrials
from selfexplain.recipes.tuners import RandomTuner, Tuner

VALIDATION = 0.1
"""Share of the training images that trials are scored on, unless --validation says otherwise."""
SEED = 1_000_000
"""Seed of all trials, or the next above it that is not one of the comparison's own."""
TUNERS: dict[str, type[RandomTuner] | type[OptunaTuner]] = {
    "random": RandomTuner,
    "optuna": OptunaTuner,
}
"""Name -> class."""


@dataclass(slots=True)
class _Search:
    """The trials of one objective."""

    spec: str
    tuner: Tuner
    specs: list[str] = field(default_factory=list)
    options: list[dict[str, Value]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def best(self) -> int:
        """Number of the trial with the highest accuracy, then the lowest NLL, then the first."""
        worth = [(o["accuracy"], -o["nll"]) if o else (-1.0, 0.0) for o in self.outcomes]
        return worth.index(max(worth))


def check_tunable(config: CompareConfig) -> None:
    """Raise InputError if options are to be tuned and no objective has any that are free.

    Example:
        >>> from selfexplain.recipes.options import DataOptions
        >>> check_tunable(CompareConfig(data=DataOptions(data="digits"), tune=2))
    """
    if config.tune is not None and not any(free_options(spec) for spec in config.objectives):
        raise InputError(
            f"there is nothing to tune in {', '.join(config.objectives)}; pass an objective whose "
            "options are free, or leave out --tune"
        )


def tuned(config: CompareConfig, run: RunTrials) -> tuple[CompareConfig, dict[str, Any] | None]:
    """The comparison with the best options found for each objective, and a record of the trials.

    Trial 0 of an objective is the spec as it is given, with the published defaults unless options
    were set; the others are drawn. An objective whose options are all fixed has no trials. The
    comparison that is returned trains on all training images and scores on the test images.

    Args:
        config: a comparison; one without `tune` is returned as it is.
        run: runs trials.

    Raises:
        InputError: there is nothing to tune, or Optuna is asked for and not installed.
    """
    if config.tune is None:
        return config, None
    check_tunable(config)
    share = config.data.validation or VALIDATION
    seed = next(s for s in count(SEED) if s not in config.seeds)
    trials = replace(config, data=replace(config.data, validation=share), robustness=False)
    searches = [
        _Search(spec, _tuner(config, spec)) for spec in config.objectives if free_options(spec)
    ]
    together = not any(search.tuner.waits for search in searches)
    rounds = [range(config.tune)] if together else [range(i, i + 1) for i in range(config.tune)]
    for numbers in rounds:
        _run_round(trials, seed, searches, numbers, run)
    best = {search.spec: search.specs[search.best()] for search in searches}
    chosen = [best.get(spec, spec) for spec in config.objectives]
    final = replace(
        config,
        objectives=tuple(dict.fromkeys(chosen)),  # two may have come to the same
        data=replace(config.data, validation=0.0),
    )
    return final, _record(config, share, seed, searches, chosen)


def _tuner(config: CompareConfig, spec: str) -> Tuner:
    whole = frozenset(whole_numbers(spec, config.options))
    return TUNERS[config.tuner](spec, free_options(spec), whole)


def _run_round(
    config: CompareConfig,
    seed: int,
    searches: Sequence[_Search],
    numbers: Sequence[int],
    run: RunTrials,
) -> None:
    """Propose, run and take note of the trials of these numbers, of all objectives together."""
    for search in searches:
        for number in numbers:
            options = search.tuner.propose(number) if number else {}
            spec = with_options(search.spec, options)
            values = option_values(spec, config.options)  # refused now, not after the others
            search.specs.append(spec)
            search.options.append({name: values[name] for name in free_options(search.spec)})
    specs = list(dict.fromkeys(search.specs[i] for search in searches for i in numbers))
    configs = [train_config(config, spec, seed, config.out / "tune") for spec in specs]
    outcomes = dict(zip(specs, run(configs), strict=True))
    for search in searches:
        for number in numbers:
            outcome = outcomes[search.specs[number]]
            search.outcomes.append(outcome)
            accuracy = outcome["accuracy"] if outcome else 0.0
            search.tuner.tell(number, search.options[number], accuracy)


def _record(
    config: CompareConfig,
    share: float,
    seed: int,
    searches: Sequence[_Search],
    chosen: Sequence[str],
) -> dict[str, Any]:
    by_spec = {search.spec: search for search in searches}
    return {
        "trials": config.tune,
        "tuner": config.tuner,
        "validation": share,
        "seed": seed,
        "objectives": [
            {
                "objective": spec,
                "chosen": choice,
                "trials": _trials(by_spec[spec]) if spec in by_spec else [],
            }
            for spec, choice in zip(config.objectives, chosen, strict=True)
        ],
    }


def _trials(search: _Search) -> list[dict[str, Any]]:
    return [
        {
            "objective": spec,
            "options": options,
            "diverged": outcome is None,
            "accuracy": None if outcome is None else outcome["accuracy"],
            "nll": None if outcome is None else outcome["nll"],
        }
        for spec, options, outcome in zip(
            search.specs, search.options, search.outcomes, strict=True
        )
    ]
