"""The options of each objective, one class an objective, for the command line."""

from dataclasses import dataclass, field

from selfexplain.introspection import IntrospectiveOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSmoothingOptions:
    """Options of the objective label_smoothing."""

    smoothing: float = 0.1
    """Mass spread evenly over all classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidencePenaltyOptions:
    """Options of the objective confidence_penalty."""

    beta: float = 0.1
    """Weight of the entropy that is rewarded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixupOptions:
    """Options of mixup, before another objective: mixup+standard."""

    alpha: float = 1.0
    """Shares of the two images are drawn from Beta(alpha, alpha)."""
    probability: float = 1.0
    """Of mixing in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutMixOptions:
    """Options of cutmix, before another objective: cutmix+standard."""

    alpha: float = 1.0
    """Shares of the two images are drawn from Beta(alpha, alpha)."""
    probability: float = 1.0
    """Of mixing in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DMLOptions:
    """Options of the objective dml."""

    networks: int = 2
    """How many networks learn together, the one that is scored included."""
    weight: float = 1.0
    """Weight of the divergence from the other networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BYOTOptions:
    """Options of the objective byot."""

    layers: str | None = None
    """Modules that get a classifier, with a / between: block1/block2; None to find the stages."""
    alpha: float = 0.1
    """Weight of what the deepest classifier says, against the label's."""
    temperature: float = 3.0
    """Softens both sides of what the deepest classifier says."""
    hint_weight: float = 1e-6
    """Weight of the squared distance to the deepest features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    mixup: MixupOptions = field(default_factory=MixupOptions)
    cutmix: CutMixOptions = field(default_factory=CutMixOptions)
    dml: DMLOptions = field(default_factory=DMLOptions)
    byot: BYOTOptions = field(default_factory=BYOTOptions)
