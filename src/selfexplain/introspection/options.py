"""The options of Introspective Learning, with their meaning and limits."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

import tyro

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.limits import Count, Natural, NotNegative, Positive, Share, check_options

MapSimilarity = Literal["cosine", "distance", "votes", "attended_votes"]
"""Measures that read class maps."""
SimilarityMeasure = Literal["attribution", MapSimilarity]
"""All measures; `attribution` reads the features that the maps are sums of."""
Aggregation = Literal["instance", "class"]
TargetShape = Literal["softmax", "zipf"]
TargetMass = Literal["fixed", "own"]
LossForm = Literal["mixed", "ce_kl", "non_true"]
IntrospectiveControl = Literal["none", "permuted", "uniform", "logits", "weights"]
OwnMassControl = Literal["none", "permuted"]
OwnMassSource = Literal["last_epoch", "average"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IntrospectiveOptions:
    """How a classifier's explanations become its soft target.

    The defaults are the best found on validation splits; results/introspection has the search and
    what failed.

    Raises:
        InputError: a value is out of its limits.

    Example:
        >>> IntrospectiveOptions(weight=0.1).form
        'non_true'
    """

    kind: MapKind = "cam"
    """Kind of the class maps."""
    layer: str | None = None
    """Layer whose maps are read, by module name; None for the last feature map."""
    similarity: SimilarityMeasure | None = None
    """How a class's explanation is compared with that of the true class: attribution, the cosine of
    the attributions to every feature and position (kind cam only); or, from the class maps, their
    cosine, their distance, votes of the positions, or attended_votes, only those where the true
    class is seen. None for attribution with kind cam, cosine with the others."""
    centre: bool = False
    """Subtract the mean over classes from the explanations before comparing them."""
    aggregation: Aggregation = "instance"
    """One target for each image, or one for each class from a running mean over its images."""
    momentum: Share = 0.9
    """Momentum of the running mean of a class (class aggregation)."""
    shape: TargetShape = "zipf"
    """Target from similarity: softmax of values, or Zipf's law over their ranks."""
    tau: float = 1.0
    """Temperature of the softmax shape; negative values favour dissimilar classes."""
    exponent: NotNegative = 1.0
    """Exponent of the zipf shape: q ~ rank ** -exponent; 0 is uniform."""
    uniform_share: Share = 0.0
    """Share of the target spread uniformly over the non-true classes, in [0, 1]."""
    form: LossForm = "non_true"
    """mixed: CE against (1-m) onehot + m q. ce_kl: CE + w T^2 KL to that target. non_true: CE +
    w T^2 KL over the non-true classes only."""
    weight: NotNegative = 0.3
    """Weight w of the KL term (forms ce_kl and non_true)."""
    temperature: Positive = 1.0
    """Temperature T of the KL term."""
    mass: TargetMass = "fixed"
    """Source of the target's non-true mass m (forms mixed and ce_kl): fixed, the number
    `mass_value`; or own, the model's own non-true probability."""
    mass_value: Share = 0.1
    """Non-true mass m if it is fixed, in [0, 1]; its upper limit if it is the model's own."""
    warmup_steps: Natural = 0
    """Steps of standard training before introspection starts."""
    ramp_steps: Natural = 0
    """Steps over which weight and mass then increase linearly from zero to their full value."""
    map_interval: Annotated[Count, tyro.conf.arg(aliases=["--introspective.every"])] = 1
    """Explain only in every n-th step; the other steps use the running mean (class aggregation) or
    ordinary cross-entropy."""
    control: IntrospectiveControl = "none"
    """permuted: the same target values on shuffled classes. uniform: no similarity. logits: the
    same construction from the logits instead of the explanations. weights: from the cosine of the
    head's weights, which depends on the classes but not on the image."""

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            known = ", ".join(choice for choice in choices if choice is not None)
            _require(value in choices, f"{name} is {value!r}; pass one of {known}")
        check_options(self)
        _require(
            self.measure != "attribution" or (self.kind == "cam" and self.layer is None),
            f"similarity attribution reads the last feature map, not kind {self.kind} at layer "
            f"{self.layer}; pass similarity cosine with them",
        )
        _require(
            self.control != "weights" or self.measure == "attribution",
            "control weights is for similarity attribution; pass that, or another control",
        )
        _require(
            self.tau != 0,
            "tau is 0; pass a number above 0, or below 0 to favour dissimilar classes",
        )

    @property
    def measure(self) -> SimilarityMeasure:
        """The similarity in force."""
        if self.similarity is not None:
            return self.similarity
        return "attribution" if self.kind == "cam" and self.layer is None else "cosine"


FORMER_NAMES = {"every": "map_interval"}
"""What options were called in version 0.1.0, which specs, calls and flags still may say, and which
records of runs do, so that a run stays the run that it was."""


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "kind": get_args(MapKind),
    "similarity": (None, "attribution", *get_args(MapSimilarity)),
    "aggregation": get_args(Aggregation),
    "shape": get_args(TargetShape),
    "form": get_args(LossForm),
    "mass": get_args(TargetMass),
    "control": get_args(IntrospectiveControl),
}


def recorded_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's options by the names that records of runs have."""
    former = {name: old for old, name in FORMER_NAMES.items()}
    return {former.get(name, name): value for name, value in values.items()}


def names_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `recorded_names`: an objective's options by the names of their fields."""
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def options_from(given: Mapping[str, Any]) -> IntrospectiveOptions:
    """Options from keyword arguments."""
    for former, name in FORMER_NAMES.items():
        _require(not {former, name} <= given.keys(), f"{former} and {name} are one; pass {name}")
    given = names_now(given)
    known = [field.name for field in fields(IntrospectiveOptions)]
    for name in given:
        near = difflib.get_close_matches(name, known, n=1) or known
        _require(
            name in known, f"there is no introspective option {name!r}; pass {' or '.join(near)}"
        )
    return IntrospectiveOptions(**given)
