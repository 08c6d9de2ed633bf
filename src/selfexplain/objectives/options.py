"""The options of each objective: the one place of their defaults, limits and help.

The command line is made of these classes, and the objectives' constructors take defaults and limits
from them. Nothing here imports torch, for which `--help` would have to wait.
"""

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from selfexplain.explanations import MapKind
from selfexplain.introspection.options import (
    Aggregation,
    IntrospectiveOptions,
    OwnMassControl,
    OwnMassSource,
    SimilarityMeasure,
)
from selfexplain.limits import (
    Limits,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    Temperature,
    check_values,
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Options that are checked against their declared limits."""

    def __post_init__(self) -> None:
        """Refuse values outside of them."""
        self.check(**{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def check(cls, **values: Any) -> None:
        """Raise InputError for the first value outside of the limits of the field of its name.

        Example:
            >>> LabelSmoothingOptions.check(smoothing=2)
            Traceback (most recent call last):
            selfexplain.limits.OptionError: smoothing is 2; pass a number from 0 to 1
        """
        check_values(cls, values)


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingOptions(Checked):
    """Options of the objective label_smoothing."""

    smoothing: Share = 0.1
    """Mass spread uniformly over all classes."""


@dataclass(frozen=True, kw_only=True)
class ConfidencePenaltyOptions(Checked):
    """Options of the objective confidence_penalty."""

    beta: NotNegative = 0.1
    """Weight of the entropy bonus."""


@dataclass(frozen=True, kw_only=True)
class MixupOptions(Checked):
    """Options of mixup, before another objective: mixup+standard."""

    alpha: Positive = 1.0
    """The mixing coefficient is drawn from Beta(alpha, alpha)."""
    probability: Share = 1.0
    """Probability of mixing in a step."""


CutMixLabels = Literal["area", "explanation"]


@dataclass(frozen=True, kw_only=True)
class CutMixOptions(MixupOptions):
    """Options of cutmix, before another objective: cutmix+standard."""

    labels: CutMixLabels = "area"
    """What the labels are mixed by: the box's share of the area, or of each image's class
    activation map."""


@dataclass(frozen=True, kw_only=True)
class DMLOptions(Checked):
    """Options of the objective dml."""

    networks: Annotated[int, Limits(least=2, most=100)] = 2
    """Number of networks trained together, including the one that is evaluated."""
    weight: NotNegative = 1.0
    """Weight of the divergence from the other networks."""


@dataclass(frozen=True, kw_only=True)
class BYOTOptions(Checked):
    """Options of the objective byot."""

    layers: str | None = None
    """Modules that get a classifier, separated by /: block1/block2; None to find the stages."""
    alpha: Share = 0.1
    """Weight of the deepest classifier's prediction; the label has the rest."""
    temperature: Positive = 3.0
    """Temperature of that distillation term."""
    hint_weight: NotNegative = 1e-6
    """Weight of the squared distance to the deepest features."""


DensePlacesControl = Literal["none", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class DensePlacesOptions(Checked):
    """Options of the objective dense_places."""

    layers: str | None = None
    """Modules that get a head, separated by /: block1/block2; None to find the stages."""
    weight: NotNegative = 0.3
    """Weight of the divergence from the class activation maps."""
    temperature: Temperature = 3.0
    """Temperature of maps and heads."""
    control: DensePlacesControl = "none"
    """shuffled: each place is taught what is seen at another of the image."""


@dataclass(frozen=True, kw_only=True)
class SaliencyGuidedOptions(Checked):
    """Options of the objective saliency_guided."""

    share: Share = 0.5
    """Fraction of the pixels, those with the smallest gradients, replaced by random values."""
    weight: NotNegative = 1.0
    """Weight of the divergence between the predictions for the original and the masked images."""
    signed: bool = False
    """Rank pixels by the signed gradient instead of its magnitude."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveGradCamOptions(Checked):
    """Options of the objective cgc."""

    weight: NotNegative = 0.5
    """Weight of the contrastive loss between maps."""
    temperature: Annotated[float, Limits(least=1e-6)] = 0.5
    """Temperature that divides the cosine similarities of maps."""
    min_area: Annotated[float, Limits(least=0.01, most=1)] = 0.08
    """Minimum area of the random crop, as a fraction of the image."""
    mirror: bool = True
    """Flip half of the crops horizontally; turn off for digits."""
    kind: MapKind = "grad_cam"
    """Kind of map."""
    layer: str | None = None
    """Name of the layer to explain; None for the last one with spatial positions."""


@dataclass(frozen=True, kw_only=True)
class AttentionSeparabilityOptions(Checked):
    """Options of the objective icasc."""

    separability: NotNegative = 1.0
    """Weight of the overlap between the attention of the true and of the most confusing class."""
    consistency: NotNegative = 1.0
    """Weight of the inner layer's attention outside the last layer's."""
    sigma: Share = 0.55
    """Threshold above which a position counts as attended to, as a fraction of the maximum."""
    omega: NotNegative = 100.0
    """Steepness of that threshold."""
    theta: Share = 0.8
    """Fraction of the inner attention from which on it counts as consistent."""
    layer: str | None = None
    """Name of the last layer; None for the last one with spatial positions."""
    inner_layer: str | None = None
    """Name of the inner layer; None for the last one with more positions than the last layer."""


@dataclass(frozen=True, kw_only=True)
class LearnerCriticOptions(Checked):
    """Options of the objective lsx."""

    weight: NotNegative = 1.0
    """Weight of the critic's loss in the learner's loss."""


@dataclass(frozen=True, kw_only=True)
class KDOptions(Checked):
    """Options of the objective kd."""

    alpha: Share = 0.9
    """Weight of the distillation; the cross-entropy with the labels has the rest."""
    temperature: Temperature = 4.0
    """Temperature of teacher and student."""


@dataclass(frozen=True, kw_only=True)
class CSKDOptions(Checked):
    """Options of the objective cs_kd."""

    weight: NotNegative = 1.0
    """Weight of the term that makes predictions for images of the same class agree."""
    temperature: Temperature = 4.0
    """Temperature of both predictions in that term."""


@dataclass(frozen=True, kw_only=True)
class PSKDOptions(Checked):
    """Options of the objective ps_kd."""

    alpha: Share = 0.8
    """Weight of the model's own past prediction in the target in the last epoch."""


@dataclass(frozen=True, kw_only=True)
class OwnMassOptions(Checked):
    """Options of the objective own_mass."""

    alpha: Share = 0.8
    """Fraction of the model's own past non-target mass used as the target's in the last epoch."""
    kappa: Annotated[float, Limits(least=-100, most=100)] | Literal["learned"] = 1.0
    """How strongly that mass favours classes with similar explanations; 0 spreads it uniformly, and
    below 0 it favours dissimilar ones. learned: fitted in each epoch, beside a weight of the
    logits, to the training images that were classified wrongly in the last one."""
    cap: Share = 1.0
    """Upper limit of a target's non-target mass."""
    control: OwnMassControl = "none"
    """permuted: the same values on shuffled classes."""
    kind: MapKind = "cam"
    """Kind of the class maps whose similarity is read."""
    layer: str | None = None
    """Layer whose maps are read, by module name (kind cam reads the last alone); None for the last
    feature map."""
    similarity: SimilarityMeasure | None = None
    """How two classes' explanations are compared, as in introspective; None for attribution with
    kind cam, cosine with the others."""
    aggregation: Aggregation = "instance"
    """Similarities of the image's own explanations, or the running mean of its class's images."""
    guard: bool = False
    """Take the mass from the largest logit, also where that is not the target's."""
    rho: Share = 1.0
    """Share of the explanations in who gets the mass, as an exponent; the past prediction has the
    rest, and at 0 all, as in ps_kd."""
    mass_from: OwnMassSource = "last_epoch"
    """Whose probability of the true class decides the mass: the model's in the last epoch, or that
    of a running average of its weights for a second view of the image."""
    average_decay: ShareBelowOne = 0.99
    """Fraction of the old average that each step keeps (mass_from average)."""
    mirror: bool = True
    """Whether the second view is the mirror image; turn off for digits (mass_from average)."""


@dataclass(frozen=True, kw_only=True)
class TfKDOptions(Checked):
    """Options of the objective tf_kd."""

    teacher: Literal["virtual", "self"] = "virtual"
    """virtual: a fixed distribution; self: a trained model of the same architecture."""
    alpha: Share | None = None
    """Weight of the teacher; None for 0.1 (virtual) or 0.95 (self)."""
    temperature: Temperature | None = None
    """Temperature of the teacher and, with teacher self, of the model too; None for 20 (virtual) or
    6 (self)."""
    correct: Share | None = None
    """The virtual teacher's probability of the true class; None for 0.99."""


@dataclass(frozen=True, kw_only=True)
class OLSOptions(Checked):
    """Options of the objective ols."""

    alpha: Share = 0.5
    """Weight of the label; the soft label has the rest."""


@dataclass(frozen=True, kw_only=True)
class ZipfOptions(Checked):
    """Options of the objective zipf."""

    weight: NotNegative = 0.1
    """Weight of the term over the non-true classes."""
    exponent: NotNegative = 1.0
    """Exponent of the rank: how fast the target falls with it."""


@dataclass(frozen=True, kw_only=True)
class DLBOptions(Checked):
    """Options of the objective dlb."""

    alpha: NotNegative = 1.0
    """Weight of the consistency with the previous step."""
    temperature: Temperature = 3.0
    """Temperature of both predictions in that term."""


@dataclass(frozen=True, kw_only=True)
class DKDOptions(Checked):
    """Options of the objective dkd."""

    alpha: NotNegative = 1.0
    """Weight of the divergence over true class against all others."""
    beta: NotNegative = 8.0
    """Weight of the divergence over the other classes."""
    temperature: Temperature = 4.0
    """Temperature of teacher and student."""
    warmup: Share = 1 / 12
    """Fraction of the epochs over which the distillation weight increases linearly from zero."""


@dataclass(frozen=True, kw_only=True)
class BornAgainOptions(Checked):
    """Options of the objective born_again."""

    generations: Annotated[int, Limits(least=1, most=100)] = 1
    """Generation of the student, counted from 1; earlier ones are trained first."""
    label_weight: NotNegative = 0.0
    """Weight of the cross-entropy with the labels."""


# The parts that a teacher's output is cut into, and what stands in for those that are left out.


Mass = Literal["image", "class", "all", "virtual"]
"""Whose mass of the true class: the image's, the mean of its class or of all, a made-up one."""
Others = Literal["image", "class", "permuted", "even"]
"""How the other classes share the rest: as for the image, its class; in a wrong order; evenly."""
Part = Literal[
    "full",
    "true_only",
    "permuted",
    "averaged",
    "class_mean",
    "similarity",
    "uniform",
    "virtual",
]
PARTS: dict[Part, tuple[Mass, Others]] = {
    "full": ("image", "image"),
    "true_only": ("image", "even"),
    "permuted": ("image", "permuted"),
    "averaged": ("image", "class"),
    "class_mean": ("class", "class"),
    "similarity": ("all", "image"),
    "uniform": ("all", "even"),
    "virtual": ("virtual", "even"),
}
"""What each part keeps of the teacher: (mass of the true class, shares of the others)."""


@dataclass(frozen=True, kw_only=True)
class DistilPartOptions(Checked):
    """Options of the objective distil_part."""

    part: Part = "full"
    """Which part of the teacher's output is kept (docs/how-to/study-kd.md)."""
    alpha: Share = 0.9
    """Weight of the distillation; the cross-entropy with the labels has the rest."""
    temperature: Temperature = 4.0
    """Temperature of teacher and student."""
    confidence: Share = 0.99
    """Confidence of the virtual teacher, before softening."""


# Which objectives there are, and whose options are whose.


CLASSES = {
    "standard": "selfexplain.objectives:Standard",
    "label_smoothing": "selfexplain.objectives:LabelSmoothing",
    "confidence_penalty": "selfexplain.objectives:ConfidencePenalty",
    "introspective": "selfexplain.introspection:Introspective",
    "own_mass": "selfexplain.introspection:OwnMass",
    "dml": "selfexplain.objectives:DML",
    "byot": "selfexplain.objectives:BYOT",
    "dense_places": "selfexplain.objectives:DensePlaces",
    "saliency_guided": "selfexplain.objectives:SaliencyGuided",
    "cgc": "selfexplain.objectives:ContrastiveGradCam",
    "icasc": "selfexplain.objectives:AttentionSeparability",
    "lsx": "selfexplain.objectives:LearnerCritic",
    "kd": "selfexplain.objectives:KD",
    "cs_kd": "selfexplain.objectives:CSKD",
    "ps_kd": "selfexplain.objectives:PSKD",
    "tf_kd": "selfexplain.objectives:TfKD",
    "ols": "selfexplain.objectives:OnlineLabelSmoothing",
    "zipf": "selfexplain.objectives:ZipfLabelSmoothing",
    "dlb": "selfexplain.objectives:DLB",
    "distil_part": "selfexplain.objectives:DistilPart",
    "born_again": "selfexplain.objectives:BornAgain",
    "dkd": "selfexplain.objectives:DKD",
}
"""Name of an objective on the command line -> its class, which imports torch. Its options, where it
has any, are the field of its name in `ObjectiveOptions`."""
MIXER_CLASSES = {
    "mixup": "selfexplain.objectives:Mixup",
    "cutmix": "selfexplain.objectives:CutMix",
}
"""The same of what may stand before an objective and mixes images for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """Options of every objective; only those of the objective in use have an effect."""

    label_smoothing: LabelSmoothingOptions = LabelSmoothingOptions()
    confidence_penalty: ConfidencePenaltyOptions = ConfidencePenaltyOptions()
    introspective: IntrospectiveOptions = IntrospectiveOptions()  # noqa: RUF009 - it is frozen
    own_mass: OwnMassOptions = OwnMassOptions()
    mixup: MixupOptions = MixupOptions()
    cutmix: CutMixOptions = CutMixOptions()
    dml: DMLOptions = DMLOptions()
    byot: BYOTOptions = BYOTOptions()
    dense_places: DensePlacesOptions = DensePlacesOptions()
    saliency_guided: SaliencyGuidedOptions = SaliencyGuidedOptions()
    cgc: ContrastiveGradCamOptions = ContrastiveGradCamOptions()
    icasc: AttentionSeparabilityOptions = AttentionSeparabilityOptions()
    lsx: LearnerCriticOptions = LearnerCriticOptions()
    kd: KDOptions = KDOptions()
    cs_kd: CSKDOptions = CSKDOptions()
    ps_kd: PSKDOptions = PSKDOptions()
    tf_kd: TfKDOptions = TfKDOptions()
    ols: OLSOptions = OLSOptions()
    zipf: ZipfOptions = ZipfOptions()
    dlb: DLBOptions = DLBOptions()
    dkd: DKDOptions = DKDOptions()
    born_again: BornAgainOptions = BornAgainOptions()
    distil_part: DistilPartOptions = DistilPartOptions()


def parts_of(spec: str) -> list[str]:
    """The parts of a spec between its plus signs, unchecked; the last is the objective's.

    Example:
        >>> parts_of("mixup+kd:temperature=1e+3")
        ['mixup', 'kd:temperature=1e+3']
    """
    return re.split(r"\+(?!\d)", spec)  # 1e+3 is a number
