"""Options that Optuna proposes by what the trials before have shown."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from selfexplain.data.seeding import named_generator
from selfexplain.errors import import_failure
from selfexplain.objectives import Choice
from selfexplain.objectives.tunable import Tunable
from selfexplain.recipes.free_options import Value, lies_in
from selfexplain.recipes.tuners import Tunables


class OptunaTuner:
    """Optuna's tree-structured Parzen estimator; the first few trials are random.

    Given the same results it proposes the same trials, so that a tuning that was stopped walks the
    same path again.

    Args:
        spec: of the objective, which seeds the sampler.
        tunables: option -> where its values may lie.
        whole: names of the options that are whole numbers.

    Raises:
        InputError: Optuna is not installed.

    Example:
        >>> from selfexplain.objectives import Range
        >>> tuner = OptunaTuner("a", {"weight": Range(0.1, 1.0)}, frozenset())
        >>> 0.1 <= tuner.propose(1)["weight"] <= 1.0
        True
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
