"""Self-made targets, each form with the control that would refute it.

A form says how much of an image's target goes to other classes (its mass), to which of them (its
spread), and what loss teaches it. `FORMS` lists them with the settings to choose from.

Shape suffixes: R independent heads that are trained side by side, B batch, C features, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.introspection.target import shuffled, softmax_target

Mass = Literal["none", "fixed", "own", "average"]
"""none: no soft target. fixed: one number. own: the head's own doubt about the image in the last
epoch, times a share that rises with the epochs. average: the doubt of a running average of the
weights about the mirrored image, times the same share."""
Spread = Literal[
    "even", "attribution", "cam_cosine", "votes", "attended_votes", "weights", "logits",
    "class_attribution", "class_predictions", "past", "geometric", "flattened", "learned",
]  # fmt: skip
"""even: one value for all. attribution, cam_cosine, votes, attended_votes: the image's own
explanations. weights: cosine of the head's weights, which knows no image. logits: no explanation.
class_attribution, class_predictions: a table over classes. past: the last epoch's prediction, as
PS-KD. geometric: past and attribution, multiplied. flattened: past and even, multiplied: its
control. learned: logits and attribution, weighed as misclassified training images ask."""
Loss = Literal["mixed", "non_true", "guarded"]
"""mixed: cross-entropy with (1-m) onehot + m q. non_true: cross-entropy, and the mass as weight of
a divergence over the other classes. guarded: the mass is taken from the largest logit, also where
that is a wrong class's (MaxSup)."""

SIMILARITIES = {"attribution", "cam_cosine", "votes", "attended_votes", "weights", "logits"}

Knobs = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way of making a target, and the settings that are tried on the validation split."""

    mass: Mass
    spread: Spread = "even"
    loss: Loss = "mixed"
    zipf: bool = False
    """Zipf's law over the ranks of the similarity in place of a softmax."""
    permuted: bool = False
    """The same values on shuffled classes: the control for the spread."""
    settings: Sequence[Knobs] = field(default_factory=lambda: [{}])
    control_of: str = ""
    """The form that this one would refute."""


def _grid(**knobs: Sequence[float]) -> list[Knobs]:
    found: list[dict[str, float]] = [{}]
    for name, values in knobs.items():
        found = [{**knob, name: value} for knob in found for value in values]
    return found


_MASS = (0.05, 0.1, 0.2)
_ALPHA = (0.5, 0.8, 1.0)
_KAPPA = (0.25, 0.5, 1.0)
_RHO = (0.25, 0.5, 0.75)


def _own(spread: Spread, **options: object) -> Form:
    return Form(mass="own", spread=spread, settings=_grid(kappa=_KAPPA), **options)  # type: ignore[arg-type]


FORMS: dict[str, Form] = {
    "plain": Form(mass="none"),
    "label smoothing": Form(mass="fixed", settings=_grid(mass=_MASS)),
    "MaxSup": Form(mass="fixed", loss="guarded", settings=_grid(mass=_MASS)),
    "online label smoothing": Form(
        mass="fixed", spread="class_predictions", settings=_grid(mass=(0.1, 0.2, 0.4))
    ),
    "PS-KD": Form(mass="own", spread="past", settings=_grid(alpha=_ALPHA)),
    # What 0.1 has as its default.
    "ranks, non-true KL": Form(
        mass="fixed", spread="attribution", loss="non_true", zipf=True,
        settings=_grid(mass=(0.02, 0.05, 0.1)),
    ),
    "ranks, non-true KL, permuted": Form(
        mass="fixed", spread="attribution", loss="non_true", zipf=True, permuted=True,
        settings=_grid(mass=(0.02, 0.05, 0.1)), control_of="ranks, non-true KL",
    ),
    "fixed, attribution": Form(
        mass="fixed", spread="attribution", settings=_grid(mass=(0.1, 0.2), kappa=(0.25, 0.5, 1.0))
    ),
    "fixed, attribution, permuted": Form(
        mass="fixed", spread="attribution", permuted=True,
        settings=_grid(mass=(0.1, 0.2), kappa=(0.25, 0.5, 1.0)), control_of="fixed, attribution",
    ),
    "own, even": Form(mass="own", settings=_grid(alpha=_ALPHA)),
    "own, even, capped": Form(mass="own", settings=_grid(cap=(0.1, 0.2, 0.4))),
    "own, even, guarded": Form(mass="own", loss="guarded", settings=_grid(alpha=_ALPHA)),
    "own, attribution": _own("attribution"),
    "own, attribution, away": Form(
        mass="own", spread="attribution", settings=_grid(kappa=(-0.25, -0.5, -1.0))
    ),
    "own, attribution, permuted": _own("attribution", permuted=True, control_of="own, attribution"),
    "own, attribution, guarded": _own("attribution", loss="guarded"),
    "own, CAM cosine": _own("cam_cosine"),
    "own, CAM cosine, permuted": _own("cam_cosine", permuted=True, control_of="own, CAM cosine"),
    "own, votes": _own("votes"),
    "own, attended votes": _own("attended_votes"),
    "own, weights": _own("weights"),
    "own, class attribution": _own("class_attribution"),
    "own, logits": _own("logits", control_of="own, attribution"),
    "own, past x attribution": Form(
        mass="own", spread="geometric", settings=_grid(rho=_RHO)
    ),
    "own, past x permuted": Form(
        mass="own", spread="geometric", permuted=True, settings=_grid(rho=_RHO),
        control_of="own, past x attribution",
    ),
    "own, past x even": Form(
        mass="own", spread="flattened", settings=_grid(rho=_RHO),
        control_of="own, past x attribution",
    ),
    "own, learned": Form(mass="own", spread="learned", settings=_grid(alpha=_ALPHA)),
    "average, even": Form(mass="average", settings=_grid(alpha=_ALPHA)),
    "average, attribution": Form(
        mass="average", spread="attribution", settings=_grid(kappa=_KAPPA)
    ),
}  # fmt: skip
"""Name -> form. A form without `alpha` in its settings has alpha 0.8, one without `kappa` 1."""


def of_images(function: Callable[[Tensor, Tensor], Tensor], s_RBK: Tensor, y_RB: Tensor) -> Tensor:
    """A function of the library from (B, K) and classes (B,), for all heads at once: (R, B, K)."""
    return function(s_RBK.flatten(0, 1), y_RB.flatten()).reshape(s_RBK.shape)


def permuted(q_RBK: Tensor, y_RB: Tensor, generator: torch.Generator) -> Tensor:
    """The same values on shuffled non-true classes."""
    keys_MK = torch.rand(q_RBK.shape, generator=generator).to(q_RBK).flatten(0, 1)
    return of_images(lambda q_MK, y_M: shuffled(q_MK, y_M, keys_MK), q_RBK, y_RB)


def gradient_of_logits(
    z_RBK: Tensor, y_RB: Tensor, mass_RB: Tensor, q_RBK: Tensor, loss: Loss
) -> Tensor:
    """Derivative of each image's loss by its logits, (R, B, K); q and the mass are constants."""
    onehot_RBK = F.one_hot(y_RB, z_RBK.shape[2]).to(z_RBK)
    m_RB1 = mass_RB.unsqueeze(-1)
    plain_RBK = z_RBK.softmax(-1) - onehot_RBK
    if loss == "non_true":
        others_RBK = of_images(softmax_target, z_RBK, y_RB)
        return plain_RBK + m_RB1 * (others_RBK - q_RBK)
    if loss == "guarded":
        largest_RBK = torch.zeros_like(z_RBK).scatter_(-1, z_RBK.argmax(-1, keepdim=True), 1.0)
        return plain_RBK + m_RB1 * (largest_RBK - q_RBK)
    return plain_RBK + m_RB1 * (onehot_RBK - q_RBK)
