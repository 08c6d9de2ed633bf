"""The choices of LeaSE and the rates of every search, checked."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from selfexplain.errors import InputError
from selfexplain.hypergradients import Mode
from selfexplain.limits import Limits, NotNegative, Positive, ShareBelowOne, check_options

Attack = Literal["normalised", "plain", "sign"]
Target = Literal["prediction", "label"]
Shown = Literal["product", "magnitude", "emphasis"]
GradientPath = Literal["full", "no_explanation", "explainer_only"]
LeaSEControl = Literal["none", "random_delta", "shuffled_delta", "saliency"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaSEOptions:
    """How the explainer explains, what the audience sees, and what reaches the architecture.

    Raises:
        InputError: a number is out of range, or nothing of the audience would count.

    Example:
        >>> LeaSEOptions(eps=4 / 255).explanation_steps
        1
    """

    eps: Positive = 8 / 255
    """Largest change of a pixel in an explanation, in units of the pixels' range [0, 1]."""
    attack: Attack = "normalised"
    """Step of the explanation: along the gradient divided by its root mean square in each image,
    along the gradient itself, or along its sign (whose derivative is taken straight through, as
    that of the normalised step)."""
    step_size: Positive = 8 / 255
    """Size of each step of the explanation, in pixel units (times the gradient, for a plain
    attack). What counts is its ratio to eps: a large one drives every pixel to its bound, a small
    one leaves the explanation proportional to the gradient."""
    explanation_steps: Annotated[int, Limits(least=1, most=1000)] = 1
    """Steps of the explanation; each is a level of its own."""
    target: Target = "prediction"
    """What the explanation moves away from: the class that the explainer predicts, or the label."""
    shown: Shown = "product"
    """What the audience sees beside the image x: x * delta / eps, x * |delta| / max |delta|, or
    x * (1 + |delta| / eps)."""
    lambda_: Annotated[NotNegative, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the audience's validation loss."""
    gamma: NotNegative = 1.0
    """Weight of the explained images in what the audience learns from."""
    gradient_path: GradientPath | None = None
    """Through what the architecture is updated: all levels (full); with delta detached; or the
    explainer's validation loss alone. None for the method's own: full for LeaSE, no_explanation for
    SANAS."""
    control: LeaSEControl = "none"
    """In place of the explanation: random noise of its size, the explanation with each image's
    pixels shuffled, or the absolute gradient of the predicted class's score."""
    mode: Mode | None = None
    """How the hypergradient is computed (docs/hypergradients.md). None for the method's own:
    inner_product for LeaSE and SANAS, as the small part that comes through the explanations is lost
    in the noise of differences; finite_difference for darts2."""

    def __post_init__(self) -> None:
        """Refuse what makes no search."""
        check_options(self)
        if self.gradient_path in (None, "full") and 0 in (self.lambda_, self.gamma):
            raise InputError(
                f"with lambda {self.lambda_:g} and gamma {self.gamma:g} no explanation reaches the "
                "architecture; pass positive ones, or gradient_path explainer_only"
            )
        if self.control == "random_delta" and self.attack == "plain":
            raise InputError(
                "random_delta has the size of a normalised step; pass --attack normalised or sign"
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
    """Start value of the weights' learning rate; it falls along a cosine to lr_min. It is also the
    size of the step that stands for the explainer's and the audience's level."""
    lr_min: NotNegative = 0.001
    """Its end value."""
    audience_lr: Positive = 0.025
    """The same for the audience's weights."""
    momentum: ShareBelowOne = 0.9
    """Momentum of the weights."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of the weights."""
    clip: Positive = 5.0
    """Largest norm of a gradient of the weights."""
    architecture_lr: Positive = 3e-4
    """Learning rate of the architecture (Adam with betas 0.5 and 0.999)."""
    architecture_weight_decay: NotNegative = 1e-3
    """Weight decay of the architecture."""

    def __post_init__(self) -> None:
        """Refuse rates that move nothing or the wrong way."""
        check_options(self)
