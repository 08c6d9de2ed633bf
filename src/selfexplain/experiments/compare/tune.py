"""Options of objectives chosen before a comparison: the same number of trials for every method.

A trial is an ordinary run in OUT/tune/runs, on a part of the training images, scored on the rest of
them; the test images are not touched. The same command again runs none of them twice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import ModuleType
from typing import Any, Protocol

import torch

from selfexplain.errors import InputError, import_failure
from selfexplain.experiments.compare.grid import RunTrials, TrialResult
from selfexplain.experiments.fit.teacher import train_config
from selfexplain.experiments.objectives import (
    Value,
    free_options,
    lies_in,
    option_values,
    whole_numbers,
    with_options,
)
from selfexplain.experiments.options import CompareConfig
from selfexplain.objectives import Choice
from selfexplain.objectives.shared.base import Tunable
from selfexplain.seeding import named_generator

# Which options are tried next.


Tunables = Mapping[str, Tunable]


class Tuner(Protocol):
    """Proposes the options of one objective's trials but for the first, which has the defaults."""

    waits: bool
    """Whether a proposal needs the results of the trials before it."""

    def propose(self, trial: int) -> dict[str, Value]:
        """Options of a trial, counted from 1."""

    def tell(self, trial: int, options: Mapping[str, Any], accuracy: float) -> None:
        """Take note of what a trial brought; 0 if it diverged."""


def draw(
    tunables: Tunables, generator: torch.Generator, whole: frozenset[str] = frozenset()
) -> dict[str, Value]:
    """One value for each option: evenly from a range or, if it says so, from its logarithm.

    Options in `whole` are whole numbers.
    """
    return {k: _draw(t, generator, k in whole) for k, t in tunables.items()}


def _draw(tunable: Tunable, generator: torch.Generator, whole: bool) -> Value:
    share = torch.rand((), generator=generator, dtype=torch.float64).item()
    if isinstance(tunable, Choice):
        return tunable.values[int(share * len(tunable.values))]
    low, high = tunable.low, tunable.high
    if tunable.log:
        value = low * math.exp(share * math.log(high / low))
    else:
        value = low + share * (high - low)
    return round(value) if whole else min(value, high)


class RandomTuner:
    """Random search (Bergstra and Bengio 2012): each trial's draw depends on its number alone.

    The spec names its stream of random numbers; options in `whole` are whole numbers.
    """

    waits = False

    def __init__(self, spec: str, tunables: Tunables, whole: frozenset[str]) -> None:
        self.spec, self.tunables, self.whole = spec, tunables, whole

    def propose(self, trial: int) -> dict[str, Value]:
        """Draw the options of a trial."""
        return draw(self.tunables, named_generator("tune", self.spec, trial), self.whole)

    def tell(self, trial: int, options: Mapping[str, Any], accuracy: float) -> None:
        """Learn nothing: the next draw does not depend on it."""


# Options that Optuna proposes by what the trials before have shown.


class OptunaTuner:
    """Optuna's tree-structured Parzen estimator; the first few trials are random.

    Given the same results it proposes the same trials, so that a tuning that was stopped continues
    as it would have. The spec seeds the sampler; options in `whole` are whole numbers.
    """

    waits = True
    RANDOM = 4
    """Random trials before the estimator is used; our choice, as Optuna's 10 is for more trials."""

    def __init__(self, spec: str, tunables: Tunables, whole: frozenset[str]) -> None:
        optuna = _optuna()
        self.tunables, self.optuna = tunables, optuna
        self.distributions = {k: _distribution(optuna, t, k in whole) for k, t in tunables.items()}
        seed = named_generator("optuna", spec).initial_seed()
        self.study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.RANDOM),
        )
        self.asked: dict[int, Any] = {}

    def propose(self, trial: int) -> dict[str, Value]:
        """Ask Optuna for the options of a trial."""
        self.asked[trial] = self.study.ask(self.distributions)
        return dict(self.asked[trial].params)

    def tell(self, trial: int, options: Mapping[str, Any], accuracy: float) -> None:
        """Tell Optuna the result of a trial, of the defaults too if it could have drawn them."""
        if trial in self.asked:
            self.study.tell(self.asked[trial], accuracy)
        elif all(lies_in(options.get(name), t) for name, t in self.tunables.items()):
            params = {name: options[name] for name in self.tunables}
            made = self.optuna.trial.create_trial(
                params=params, distributions=self.distributions, value=accuracy
            )
            self.study.add_trial(made)


def _optuna() -> ModuleType:
    try:
        import optuna
    except Exception as error:  # a package that is broken may raise anything
        install = "pip install 'selfexplain[tune]', or pass --tuner random"
        raise import_failure(error, "--tuner optuna", "optuna", install) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: ModuleType = optuna
    return module


def _distribution(optuna: ModuleType, tunable: Tunable, whole: bool) -> Any:
    if isinstance(tunable, Choice):
        return optuna.distributions.CategoricalDistribution(tunable.values)
    if whole:
        low, high = math.ceil(tunable.low), math.floor(tunable.high)
        return optuna.distributions.IntDistribution(low, high, log=tunable.log)
    return optuna.distributions.FloatDistribution(tunable.low, tunable.high, log=tunable.log)


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
    outcomes: list[TrialResult] = field(default_factory=list)

    def best(self) -> int:
        """Number of the trial with the highest accuracy, then the lowest NLL, then the first."""
        worth = [(o["accuracy"], -o["nll"]) if o else (-1.0, 0.0) for o in self.outcomes]
        return worth.index(max(worth))


def check_tunable(config: CompareConfig) -> None:
    """Raise InputError if options are to be tuned and no objective has any that are free."""
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
