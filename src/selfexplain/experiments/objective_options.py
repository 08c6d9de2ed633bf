"""The options of each objective, one class an objective, for the command line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from selfexplain.explanations import MapKind
from selfexplain.introspection import IntrospectiveOptions
from selfexplain.introspection.options import FORMER_NAMES, OwnMassControl
from selfexplain.limits import (
    Limits,
    NotNegative,
    Positive,
    Share,
    Temperature,
    check_options,
    hints_of,
)
from selfexplain.objectives.teacher_parts import Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Options that keep to the limits they are declared with."""

    def __post_init__(self) -> None:
        """Refuse values outside of them."""
        check_options(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSmoothingOptions(Checked):
    """Options of the objective label_smoothing."""

    smoothing: Share = 0.1
    """Mass spread evenly over all classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidencePenaltyOptions(Checked):
    """Options of the objective confidence_penalty."""

    beta: NotNegative = 0.1
    """Weight of the entropy that is rewarded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixupOptions(Checked):
    """Options of mixup, before another objective: mixup+standard."""

    alpha: Positive = 1.0
    """Shares of the two images are drawn from Beta(alpha, alpha)."""
    probability: Share = 1.0
    """Of mixing in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutMixOptions(Checked):
    """Options of cutmix, before another objective: cutmix+standard."""

    alpha: Positive = 1.0
    """Shares of the two images are drawn from Beta(alpha, alpha)."""
    probability: Share = 1.0
    """Of mixing in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DMLOptions(Checked):
    """Options of the objective dml."""

    networks: Annotated[int, Limits(least=2, most=100)] = 2
    """How many networks learn together, the one that is scored included."""
    weight: NotNegative = 1.0
    """Weight of the divergence from the other networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BYOTOptions(Checked):
    """Options of the objective byot."""

    layers: str | None = None
    """Modules that get a classifier, with a / between: block1/block2; None to find the stages."""
    alpha: Share = 0.1
    """Weight of what the deepest classifier says, against the label's."""
    temperature: Positive = 3.0
    """Softens both sides of what the deepest classifier says."""
    hint_weight: NotNegative = 1e-6
    """Weight of the squared distance to the deepest features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaliencyGuidedOptions(Checked):
    """Options of the objective saliency_guided."""

    share: Share = 0.5
    """Share of the pixels, those of the smallest gradient, that are replaced by random values."""
    weight: NotNegative = 1.0
    """Weight of the divergence between the predictions of whole and masked images."""
    signed: bool = False
    """Rank pixels by the signed gradient in place of its magnitude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastiveGradCamOptions(Checked):
    """Options of the objective cgc."""

    weight: NotNegative = 0.5
    """Weight of the contrast between maps."""
    temperature: Annotated[float, Limits(least=1e-6)] = 0.5
    """Divides the cosines of maps."""
    min_area: Annotated[float, Limits(least=0.01, most=1)] = 0.08
    """Least area of the part of an image that is its other view, as a share of the image."""
    mirror: bool = True
    """Mirror half of the parts left to right; no, for digits."""
    kind: MapKind = "grad_cam"
    """Kind of map."""
    layer: str | None = None
    """Name of the layer to explain; None for the last with positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSeparabilityOptions(Checked):
    """Options of the objective icasc."""

    separability: NotNegative = 1.0
    """Weight of the overlap of the true class's attention with the most confusing one's."""
    consistency: NotNegative = 1.0
    """Weight of the inner layer's attention outside of the last layer's."""
    sigma: Share = 0.55
    """Share of the highest attention from which on a place counts as attended to."""
    omega: NotNegative = 100.0
    """Steepness of that limit."""
    theta: Share = 0.8
    """Share of the inner attention that counts as consistent."""
    layer: str | None = None
    """Name of the last layer; None for the last with positions."""
    inner_layer: str | None = None
    """Name of the inner layer; None for the last with more positions than the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerCriticOptions(Checked):
    """Options of the objective lsx."""

    weight: NotNegative = 1.0
    """Weight of the critic's loss in what the learner learns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KDOptions(Checked):
    """Options of the objective kd."""

    alpha: Share = 0.9
    """Share of the distillation; the rest is the cross-entropy with the labels."""
    temperature: Temperature = 4.0
    """Softens teacher and student."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CSKDOptions(Checked):
    """Options of the objective cs_kd."""

    weight: NotNegative = 1.0
    """Weight of the term that makes predictions for images of one class agree."""
    temperature: Temperature = 4.0
    """Softens both predictions in that term."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PSKDOptions(Checked):
    """Options of the objective ps_kd."""

    alpha: Share = 0.8
    """Share of the model's own past prediction in the target of the last epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnMassOptions(Checked):
    """Options of the objective own_mass."""

    alpha: Share = 0.8
    """Share of the model's own past non-target mass in the target of the last epoch."""
    kappa: NotNegative = 1.0
    """How far that mass leans to classes with similar explanations; 0 spreads it evenly."""
    cap: Share = 1.0
    """The most that the non-target mass of a target may be."""
    control: OwnMassControl = "none"
    """permuted: the same values on shuffled classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TfKDOptions(Checked):
    """Options of the objective tf_kd."""

    teacher: Literal["virtual", "self"] = "virtual"
    """virtual: made by hand; self: a model of the same kind, trained before."""
    alpha: Share | None = None
    """Weight of the teacher; None for 0.1 (virtual) or 0.95 (self)."""
    temperature: Temperature | None = None
    """Softens the teacher, and against teacher self the model too; None for 20 (virtual) or 6."""
    correct: Share | None = None
    """The virtual teacher's probability of the true class; None for 0.99."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OLSOptions(Checked):
    """Options of the objective ols."""

    alpha: Share = 0.5
    """Weight of the label; the rest is the soft label's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipfOptions(Checked):
    """Options of the objective zipf."""

    weight: NotNegative = 0.1
    """Weight of the term over the non-true classes."""
    exponent: NotNegative = 1.0
    """How fast the target falls with the rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DLBOptions(Checked):
    """Options of the objective dlb."""

    alpha: NotNegative = 1.0
    """Weight of the agreement with the step before."""
    temperature: Temperature = 3.0
    """Softens both predictions in that term."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DKDOptions(Checked):
    """Options of the objective dkd."""

    alpha: NotNegative = 1.0
    """Weight of the divergence between "the true class or another"."""
    beta: NotNegative = 8.0
    """Weight of the divergence between the other classes."""
    temperature: Temperature = 4.0
    """Softens teacher and student."""
    warmup: Share = 1 / 12
    """Share of the epochs over which the distillation grows to its weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BornAgainOptions(Checked):
    """Options of the objective born_again."""

    generations: Annotated[int, Limits(least=1, most=100)] = 1
    """Which generation the student is, counted from 1; those before it are trained first."""
    label_weight: NotNegative = 0.0
    """Weight of the cross-entropy with the labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilPartOptions(Checked):
    """Options of the objective distil_part."""

    part: Part = "full"
    """What is kept of the teacher's output (docs/how-to/study-kd.md)."""
    alpha: Share = 0.9
    """Share of the distillation; the rest is the cross-entropy with the labels."""
    temperature: Temperature = 4.0
    """Softens teacher and student."""
    confidence: Share = 0.99
    """Confidence of the virtual teacher, before it is softened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use count."""

    label_smoothing: LabelSmoothingOptions = field(default_factory=LabelSmoothingOptions)
    confidence_penalty: ConfidencePenaltyOptions = field(default_factory=ConfidencePenaltyOptions)
    introspective: IntrospectiveOptions = field(default_factory=IntrospectiveOptions)
    own_mass: OwnMassOptions = field(default_factory=OwnMassOptions)
    mixup: MixupOptions = field(default_factory=MixupOptions)
    cutmix: CutMixOptions = field(default_factory=CutMixOptions)
    dml: DMLOptions = field(default_factory=DMLOptions)
    byot: BYOTOptions = field(default_factory=BYOTOptions)
    saliency_guided: SaliencyGuidedOptions = field(default_factory=SaliencyGuidedOptions)
    cgc: ContrastiveGradCamOptions = field(default_factory=ContrastiveGradCamOptions)
    icasc: AttentionSeparabilityOptions = field(default_factory=AttentionSeparabilityOptions)
    lsx: LearnerCriticOptions = field(default_factory=LearnerCriticOptions)
    kd: KDOptions = field(default_factory=KDOptions)
    cs_kd: CSKDOptions = field(default_factory=CSKDOptions)
    ps_kd: PSKDOptions = field(default_factory=PSKDOptions)
    tf_kd: TfKDOptions = field(default_factory=TfKDOptions)
    ols: OLSOptions = field(default_factory=OLSOptions)
    zipf: ZipfOptions = field(default_factory=ZipfOptions)
    dlb: DLBOptions = field(default_factory=DLBOptions)
    dkd: DKDOptions = field(default_factory=DKDOptions)
    born_again: BornAgainOptions = field(default_factory=BornAgainOptions)
    distil_part: DistilPartOptions = field(default_factory=DistilPartOptions)


def recorded_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's options by the names that records of runs have.

    Example:
        >>> recorded_names({"map_interval": 3, "weight": 0.1})
        {'every': 3, 'weight': 0.1}
    """
    former = {name: old for old, name in FORMER_NAMES.items()}
    return {former.get(name, name): value for name, value in values.items()}


def names_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `recorded_names`: an objective's options by the names of their fields."""
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


def flag_of(owner: type, field: str) -> str:
    """What sets a field of the options on the command line.

    Example:
        >>> flag_of(MixupOptions, "alpha")
        '--mixup.alpha'
    """
    groups = {kind: f"{name}." for name, kind in hints_of(ObjectiveOptions).items()}
    annotations = getattr(hints_of(owner)[field], "__metadata__", ())
    if tyro.conf.Positional in annotations:  # typed without a flag
        return field.upper()
    given: list[str] = [name for a in annotations if (name := getattr(a, "name", None))]
    return "--" + (groups.get(owner, "") + (given or [field])[0]).replace("_", "-")


def parts_of(spec: str) -> list[str]:
    """The parts of a spec between its plus signs, unchecked; the last is the objective's.

    Example:
        >>> parts_of("mixup+kd:temperature=1e+3")
        ['mixup', 'kd:temperature=1e+3']
    """
    return re.split(r"\+(?!\d)", spec)  # 1e+3 is a number
