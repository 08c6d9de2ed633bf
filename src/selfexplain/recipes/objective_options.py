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
class KDOptions:
    """Options of the objective kd."""

    alpha: float = 0.9
    """Share of the distillation; the rest is the cross-entropy with the labels."""
    temperature: float = 4.0
    """Softens teacher and student."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    kd: KDOptions = field(default_factory=KDOptions)
