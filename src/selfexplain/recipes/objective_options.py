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
class CSKDOptions:
    """Options of the objective cs_kd."""

    weight: float = 1.0
    """Weight of the term that makes predictions for images of one class agree."""
    temperature: float = 4.0
    """Softens both predictions in that term."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PSKDOptions:
    """Options of the objective ps_kd."""

    alpha: float = 0.8
    """Share of the model's own past prediction in the target of the last epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    cs_kd: CSKDOptions = field(default_factory=CSKDOptions)
    ps_kd: PSKDOptions = field(default_factory=PSKDOptions)
