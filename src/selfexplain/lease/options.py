"""The choices of LeaSE and the rates of every search, checked."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from selfexplain.errors import InputError
from selfexplain.hypergradients import Mode
from selfexplain.limits import (
    Count,
    Limits,
    Natural,
    NotNegative,
    Positive,
    ShareBelowOne,
    check_options,
    check_values,
)
from selfexplain.spaces.genotype import FAMILIES, edges_of

Method = Literal[
    "lease",
    "sanas",
    "darts1",
    "darts2",
    "random_search",
    "random_best",
    "random",
    "all_conv3x3",
]
WITHOUT_SEARCH = ("random", "all_conv3x3")
"""Methods that name a cell without images."""
BY_GRADIENT = ("lease", "sanas", "darts1", "darts2")
"""Methods with a gradient towards the architecture."""

Attack = Literal["normalised", "plain", "sign"]
Target = Literal["prediction", "label"]
Explanation = Literal["attack", "cam", "squared_gradients"]
Shown = Literal["product", "magnitude", "emphasis", "soft_mask"]
AudienceInverse = Literal["one_step", "neumann"]
Coupling = Literal["weighted", "normalised"]
GradientPath = Literal["full", "no_explanation", "explainer_only"]
LeaSEControl = Literal["none", "random_delta", "shuffled_delta", "saliency"]
BaseName = Literal["plain", "beta_darts", "drnas", "drnas_progressive", "pdarts"]
Selection = Literal["argmax", "perturbation", "audience_perturbation"]

DEFAULT_TAU = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaSEOptions:
    """How the explainer explains, what the audience sees, and what reaches the architecture.

    Raises:
        InputError: a number is out of range, or nothing of the audience would count.

    Example:
        >>> LeaSEOptions(eps=4 / 255).explanation_steps
        1
    """

    explanation: Explanation = "attack"
    """What explains: the attack on the prediction; or, as a soft mask alone, the class activation
    map (cam) or the squared gradients of the class's score towards the image, smoothed."""
    eps: Positive = 8 / 255
    """Largest change of a pixel in an explanation, in units of the pixels' range [0, 1]."""
    attack: Attack = "normalised"
    """Step of the explanation: along the gradient divided by its root mean square in each image,
    along the gradient itself, or along its sign (with a straight-through estimator that has the
    derivative of the normalised step)."""
    step_size: Positive = 8 / 255
    """Size of each step of the explanation, in pixel units (times the gradient, for a plain
    attack). Only its ratio to eps matters: a large one drives every pixel to its bound, a small one
    leaves the explanation proportional to the gradient."""
    explanation_steps: Annotated[int, Limits(least=1, most=1000)] = 1
    """Number of steps of the explanation; each is a separate level."""
    target: Target = "prediction"
    """What the explanation moves away from: the class that the explainer predicts, or the label."""
    shown: Shown = "product"
    """What the audience sees in addition to the image x: x * delta / eps (product),
    x * |delta| / max |delta| (magnitude), x * (1 + |delta| / eps) (emphasis), or
    x * sigmoid((e - median(e)) / tau) with e the evidence of the explanation (soft_mask)."""
    tau: Positive = DEFAULT_TAU
    """Softness of a soft mask, in units of the evidence's mean distance from its median."""
    lambda_: Annotated[NotNegative, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the audience's validation loss."""
    coupling: Coupling = "weighted"
    """How the audience's part of the architecture's gradient joins the direct one: times lambda
    (weighted), or at `share` times the direct one's size (normalised), whatever lambda says."""
    share: Positive = 1.0
    """Size of the audience's part relative to the direct one (coupling normalised)."""
    coupling_momentum: ShareBelowOne = 0.9
    """Fraction that each step keeps of the running means of both sizes and of the audience's part
    (coupling normalised)."""
    gamma: NotNegative = 1.0
    """Weight of the explained images in the audience's training loss."""
    audience_inverse: AudienceInverse = "one_step"
    """What stands for the derivative of the audience's optimum: that of its one gradient step
    (one_step), or the implicit one by a Neumann series, that of many steps (neumann)."""
    neumann_terms: Annotated[int, Limits(least=2, most=1000)] = 10
    """Terms of the series (audience_inverse neumann); each further one costs a product of the
    Hessian of the audience's loss with a vector."""
    gradient_path: GradientPath | None = None
    """Gradients that update the architecture: through all levels (full), with delta detached
    (no_explanation), or only of the explainer's validation loss (explainer_only). None for the
    method's default: full for LeaSE, no_explanation for SANAS."""
    control: LeaSEControl = "none"
    """Replacement for the explanation: random noise of its size, the explanation with each image's
    pixels shuffled, or the absolute gradient of the predicted class's score."""
    mode: Mode | None = None
    """How the hypergradient is computed (docs/hypergradients.md). None for the method's
    default: inner_product for LeaSE and SANAS, because finite differences are too noisy for the
    small part that flows through the explanations; finite_difference for darts2."""

    def __post_init__(self) -> None:
        """Refuse invalid combinations."""
        check_options(self)
        if self.gradient_path in (None, "full") and 0 in (self.lambda_, self.gamma):
            raise InputError(
                f"with lambda {self.lambda_:g} and gamma {self.gamma:g} no explanation reaches the "
                "architecture; pass positive ones, or gradient_path explainer_only"
            )
        if self.coupling == "normalised" and self.gradient_path == "explainer_only":
            raise InputError(
                "with gradient_path explainer_only the audience has no part to normalise; leave "
                "out one of the two"
            )
        if self.control == "random_delta" and self.attack == "plain":
            raise InputError(
                "random_delta has the size of a normalised step; pass --attack normalised or sign"
            )
        if self.tau != DEFAULT_TAU and self.shown != "soft_mask":
            raise InputError(
                f"tau is the softness of a soft mask, but shown is {self.shown}; leave out tau, or "
                "pass shown soft_mask"
            )
        if self.explanation != "attack":
            self._check_map()
        if self.audience_inverse == "neumann":
            self._check_series()

    def _check_series(self) -> None:
        """Refuse a series that nothing would look at, or that the mode cannot carry."""
        if self.mode == "exact":
            raise InputError(
                "mode exact differentiates through the one step of each level and has no Neumann "
                "series; pass mode inner_product, which is exact too, or audience_inverse one_step"
            )
        if self.gradient_path == "explainer_only":
            raise InputError(
                "with gradient_path explainer_only nothing depends on the audience's optimum; "
                "leave out one of gradient_path and audience_inverse"
            )

    def _check_map(self) -> None:
        """Refuse what an explanation that is no perturbation does not look at."""
        if self.shown != "soft_mask":
            raise InputError(
                f"explanation {self.explanation} is a map of evidence, not a perturbation; pass "
                f"shown soft_mask with it (shown is {self.shown})"
            )
        if self.control in ("saliency", "random_delta"):
            raise InputError(
                f"control {self.control} takes the place of the explanation, so that "
                f"{self.explanation} is not looked at; leave out one of the two"
            )
        steps = ("eps", "attack", "step_size", "explanation_steps")
        plain = {f.name: f.default for f in fields(self)}
        if given := [name for name in steps if getattr(self, name) != plain[name]]:
            raise InputError(
                f"explanation {self.explanation} takes no steps and does not look at "
                f"{', '.join(given)}; leave out the one or the other"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How weights and architecture are updated.

    Raises:
        InputError: a rate is not positive.

    Example:
        >>> Rates(lr=0.1).lr
        0.1
    """

    lr: Positive = 0.025
    """Initial learning rate of the weights, with cosine decay to lr_min. It is also the size of the
    gradient step that approximates the explainer's and the audience's level."""
    lr_min: NotNegative = 0.001
    """Final learning rate of the weights."""
    audience_lr: Positive = 0.025
    """Initial learning rate of the audience's weights."""
    momentum: ShareBelowOne = 0.9
    """Momentum of the weights."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of the weights."""
    clip: Positive = 5.0
    """Maximum norm of the weights' gradient."""
    architecture_lr: Positive = 3e-4
    """Learning rate of the architecture (Adam with betas 0.5 and 0.999)."""
    architecture_weight_decay: NotNegative = 1e-3
    """Weight decay of the architecture."""

    def __post_init__(self) -> None:
        """Refuse rates that are not positive."""
        check_options(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseOptions:
    """What a gradient-based search stands on (bases.py), and how it ends in a cell (selection.py).

    Raises:
        InputError: a number is out of range.

    Example:
        >>> BaseOptions(base="beta_darts").beta_weight
        50.0
    """

    base: BaseName = "plain"
    """How the architecture becomes the weights of the operations: by a softmax (plain), with the
    regulariser of beta-DARTS (beta_darts); drawn from a Dirichlet distribution (drnas), half of
    whose operations are dropped in the middle of the search (drnas_progressive); or by a softmax
    in three supernets, each deeper and of fewer operations than the last (pdarts)."""
    beta_weight: NotNegative = 50.0
    """Weight of the regulariser at the end of the search, to which it grows from 0 (beta_darts)."""
    select: Selection = "argmax"
    """How the cell is selected: by the largest weights (argmax); or after the search, edge by edge,
    by how much the supernet's accuracy on held-out images drops without an operation
    (perturbation), or how much worse the audience then learns (audience_perturbation)."""
    selection_epochs: Natural = 5
    """Epochs in which the supernet is tuned between two decisions, besides those of the search
    (select perturbation and audience_perturbation)."""
    teaching_steps: Count = 20
    """Steps in which a copy of the audience learns from the explanations of a supernet without an
    operation (select audience_perturbation)."""

    def __post_init__(self) -> None:
        """Refuse unknown names, what is out of range, and what the base would not look at."""
        check_values(type(self), {"base": self.base, "select": self.select})
        check_options(self)
        if self.base != "beta_darts" and self.beta_weight != 50:
            raise InputError(
                f"beta_weight is the weight of a regulariser that base {self.base} lacks; leave it "
                "out, or pass base beta_darts"
            )
        if self.select == "argmax" and self.selection_epochs != 5:
            raise InputError(
                "selection_epochs are those between decisions by perturbation; leave them out, or "
                "pass select perturbation or audience_perturbation"
            )
        if self.select != "audience_perturbation" and self.teaching_steps != 20:
            raise InputError(
                "teaching_steps are those of an audience; leave them out, or pass select "
                "audience_perturbation"
            )

    def more_epochs(self, family: str) -> int:
        """Epochs between decisions by perturbation, which come after those of the search.

        Example:
            >>> BaseOptions(select="perturbation").more_epochs("nasbench201")
            25
        """
        rounds = 1 if self.select == "argmax" else selection_rounds(family)
        return self.selection_epochs * (rounds - 1)


def selection_rounds(family: str) -> int:
    """Rounds of selection by perturbation: one for each edge, and each node that drops edges.

    Example:
        >>> selection_rounds("darts")
        17
    """
    rules = FAMILIES[family]
    nodes = range(rules.inputs, rules.inputs + rules.nodes)
    most = rules.edges_per_node
    return len(edges_of(family)) + sum(most is not None and node > most for node in nodes)
