"""The options of each objective, one class an objective, for the command line."""

from dataclasses import dataclass, field
from typing import Literal

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
class TfKDOptions:
    """Options of the objective tf_kd."""

    teacher: Literal["virtual", "self"] = "virtual"
    """virtual: made by hand; self: a model of the same kind, trained before."""
    alpha: float | None = None
    """Weight of the teacher; None for 0.1 (virtual) or 0.95 (self)."""
    temperature: float | None = None
    """Softens the teacher, and against teacher self the model too; None for 20 (virtual) or 6."""
    correct: float | None = None
    """The virtual teacher's probability of the true class; None for 0.99."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OLSOptions:
    """Options of the objective ols."""

    alpha: float = 0.5
    """Weight of the label; the rest is the soft label's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipfOptions:
    """Options of the objective zipf."""

    weight: float = 0.1
    """Weight of the term over the non-true classes."""
    exponent: float = 1.0
    """How fast the target falls with the rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DLBOptions:
    """Options of the objective dlb."""

    alpha: float = 1.0
    """Weight of the agreement with the step before."""
    temperature: float = 3.0
    """Softens both predictions in that term."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    cs_kd: CSKDOptions = field(default_factory=CSKDOptions)
    ps_kd: PSKDOptions = field(default_factory=PSKDOptions)
    tf_kd: TfKDOptions = field(default_factory=TfKDOptions)
    ols: OLSOptions = field(default_factory=OLSOptions)
    zipf: ZipfOptions = field(default_factory=ZipfOptions)
    dlb: DLBOptions = field(default_factory=DLBOptions)
