"""The options of each objective, one class an objective, for the command line."""

from dataclasses import dataclass, field

from selfexplain.introspection import IntrospectiveOptions
from selfexplain.objectives.teacher_parts import Part


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
class DKDOptions:
    """Options of the objective dkd."""

    alpha: float = 1.0
    """Weight of the divergence between "the true class or another"."""
    beta: float = 8.0
    """Weight of the divergence between the other classes."""
    temperature: float = 4.0
    """Softens teacher and student."""
    warmup: float = 1 / 12
    """Share of the epochs over which the distillation grows to its weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BornAgainOptions:
    """Options of the objective born_again."""

    generations: int = 1
    """Which generation the student is, counted from 1; those before it are trained first."""
    label_weight: float = 0.0
    """Weight of the cross-entropy with the labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilPartOptions:
    """Options of the objective distil_part."""

    part: Part = "full"
    """What is kept of the teacher's output (docs/study-kd.md)."""
    alpha: float = 0.9
    """Share of the distillation; the rest is the cross-entropy with the labels."""
    temperature: float = 4.0
    """Softens teacher and student."""
    confidence: float = 0.99
    """Confidence of the virtual teacher, before it is softened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    kd: KDOptions = field(default_factory=KDOptions)
    dkd: DKDOptions = field(default_factory=DKDOptions)
    born_again: BornAgainOptions = field(default_factory=BornAgainOptions)
    distil_part: DistilPartOptions = field(default_factory=DistilPartOptions)
