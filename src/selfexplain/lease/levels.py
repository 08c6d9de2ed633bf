"""The four levels of learning by self-explanation, as losses of named variables.

    I    explainer    E*(A)     = argmin_E      CE(f(x; E, A), y)
    II   delta        delta*    = argmax_delta  CE(f(x + delta; E*, A), f(x; E*, A))
    III  audience     W*(delta) = argmin_W      CE(g(x; W), y) + gamma CE(g(x (*) delta*; W), y)
    IV   architecture             min_A         CE(f(x; E*, A), y) + lambda CE(g(x; W*), y)

I to III on training images, IV on validation images (Hosseini and Xie, arXiv 2012.12899). Each
function makes one level's loss: a scalar of variables named as in the second column. The explainer
f(v, x) and the audience g(v, x) find their weights, and the architecture, among the variables v.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfexplain.multilevel.module import Function
from selfexplain.multilevel.variables import Variables, leaves

Loss = Callable[[Variables], Tensor]
Network = Callable[[Variables, Tensor], Tensor]
"""Of the variables and images (B, C, H, W): logits (B, K)."""
Explanation = Callable[[Variables], Tensor]
"""Of the variables: a perturbation, or what is shown of it, (B, C, H, W)."""


def explainer(function: Function) -> Network:
    """f(v, x) = f(x; E, A), of a supernet as a function (weights, x, architecture)."""
    return lambda v, x: function(v["explainer"], x, v["architecture"])


def audience(function: Function) -> Network:
    """g(v, x) = g(x; W), of a network as a function (weights, x)."""
    return lambda v, x: function(v["audience"], x)


def explainer_learns(f: Network, x_BCHW: Tensor, y_B: Tensor) -> Loss:
    """Level I: CE(f(x; E, A), y), on training images."""
    return lambda v: cross_entropy(f(v, x_BCHW), y_B)


def explainer_explains(
    f: Network, x_BCHW: Tensor, delta: Explanation, target: Callable[[Tensor], Tensor]
) -> Loss:
    """Level II: the sum over images of CE(f(x + delta; E, A), target); delta climbs it.

    A sum, not a mean, as each image has a perturbation of its own.

    Args:
        f: the explainer.
        x_BCHW: training images.
        delta: the perturbation, in units of x.
        target: classes (B,) of the explainer's logits.
    """

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return cross_entropy(logits_BK, target(logits_BK), reduction="sum")

    return loss


def explainer_scores(
    f: Network, x_BCHW: Tensor, delta: Explanation, target: Callable[[Tensor], Tensor]
) -> Loss:
    """In place of level II, for plain saliency: the sum over images of the target's score."""

    def loss(v: Variables) -> Tensor:
        logits_BK = f(v, x_BCHW + delta(v))
        return logits_BK.gather(1, target(logits_BK)[:, None]).sum()

    return loss


def audience_learns(
    g: Network,
    g_explained: Network,
    x_BCHW: Tensor,
    y_B: Tensor,
    gamma: float,
    explained: Explanation,
    seen: Sequence[str] = ("audience",),
) -> Loss:
    """Level III: CE(g(x; W), y) + gamma CE(g(x (*) delta; W), y), on training images.

    Args:
        g: the audience with its BatchNorm statistics of images.
        g_explained: the same with those of explained images.
        x_BCHW: images.
        y_B: their labels.
        gamma: weight of the second term; 0 leaves it out.
        explained: x (*) delta.
        seen: names of the variables that g looks at.
    """

    def loss(v: Variables) -> Tensor:
        terms = []
        if gamma:
            terms.append(gamma * cross_entropy(g_explained(v, explained(v)), y_B))
        # The other term does not depend on the explanation: where derivatives towards that alone
        # are wanted, it is left out. It comes last, so that what it draws (dropout) takes nothing
        # from the term that stays.
        if gamma == 0 or any(t.requires_grad for name in seen for t in leaves(v[name])):
            terms.append(cross_entropy(g(v, x_BCHW), y_B))
        return torch.stack(terms).sum()

    return loss


def explainer_relearns(f: Network, g: Network, x_BCHW: Tensor, y_B: Tensor, lambda_: float) -> Loss:
    """Level IV: CE(f(x; E, A), y) + lambda CE(g(x; W), y), on validation images."""

    def loss(v: Variables) -> Tensor:
        value = cross_entropy(f(v, x_BCHW), y_B)
        return value + lambda_ * cross_entropy(g(v, x_BCHW), y_B) if lambda_ else value

    return loss


class OwnPrediction:
    """The classes that the explainer predicts at its first call, made where delta is zero.

    Later calls get the same classes. (The soft prediction would not do as a target: the gradient of
    the cross-entropy against it vanishes at delta = 0.)

    Example:
        >>> target = OwnPrediction()
        >>> target(torch.tensor([[0.0, 1.0]])), target(torch.tensor([[1.0, 0.0]]))
        (tensor([1]), tensor([1]))
    """

    def __init__(self) -> None:
        self.classes_B: Tensor | None = None

    def __call__(self, logits_BK: Tensor) -> Tensor:
        """Classes (B,) of the logits of the first call."""
        if self.classes_B is None:
            self.classes_B = logits_BK.detach().argmax(1)
        return self.classes_B
