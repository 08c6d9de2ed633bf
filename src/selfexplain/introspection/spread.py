"""Ways to spread a target's mass over the classes that are not true.

Shape suffixes: B batch, K classes, J = K - 1 classes other than the predicted one, M images, T = 2
terms.
"""

from typing import Any

import torch
from torch import Tensor

from selfexplain.distributed import gathered
from selfexplain.errors import InputError
from selfexplain.introspection.target import shuffled, softmax_target
from selfexplain.objectives.shared.base import KeepsPrecision, non_target, true_mask


def hashed_permutation(q_BK: Tensor, y_B: Tensor, place_B: Tensor, salt: int) -> Tensor:
    """The same target values on shuffled non-target classes, by a hash in place of a generator.

    Which class gets which value depends on the image's place in the training set and the salt
    alone, so every device and every process gives the same, and nothing is drawn.
    """
    classes = torch.arange(q_BK.shape[1], device=q_BK.device)
    keys_BK = (place_B.unsqueeze(1) * 1_000_003 + classes * 7_919 + salt * 104_729) & 0x7FFFFFFF
    for _ in range(2):  # two rounds of multiply and shift mix all bits of so small numbers
        keys_BK = (keys_BK ^ (keys_BK >> 15)) * 0x2C1B3C6D & 0x7FFFFFFF
    return shuffled(q_BK, y_B, keys_BK.double())


def geometric_target(r_BK: Tensor, q_BK: Tensor, y_B: Tensor, rho: float) -> Tensor:
    """r^(1 - rho) q^rho over the classes other than y, normalised: (B, K), 0 at y.

    With rho 0 it is r without its y; where all of r is 0, as before an image was seen, q alone
    counts.

    Args:
        r_BK: not negative; what it is at y is not read.
        q_BK: the same.
        y_B: labels.
        rho: in [0, 1].

    Example:
        >>> r, q = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.0, 0.2, 0.8]])
        >>> geometric_target(r, q, torch.tensor([0]), 0.5)
        tensor([[0.0000, 0.3333, 0.6667]])
    """
    logs = [each_BK.clamp_min(torch.finfo(each_BK.dtype).tiny).log() for each_BK in (r_BK, q_BK)]
    return softmax_target((1 - rho) * logs[0] + rho * logs[1], y_B)


# How far a target should lean to similar explanations, as the images that are wrong would have it.
#
# An image that a network gets wrong shows which class it was taken for. Seen from that class the
# label is one of the others, and a spread of mass over the others is good if it makes that label
# likely. Under
#
#     p_c proportional to exp(a z_c + k s_c),   c other than the class n that was predicted,
#
# z are the logits and s the similarities of the classes' explanations to that of n, each as
# z-scores over the image's other classes. The weights (a, k) of the highest likelihood say how far
# a target should lean to what the logits favour, and how far to what the explanations find similar.
# They are fitted to training images, so that no image has to be held out. This is the project's
# own (docs/methods/own_mass.md).


ROOM = 2048
"""Images that are remembered at most; a fit of two weights needs no more."""
MOST_STEPS = 50
"""Of Newton's method, which takes about ten."""
PENALTY = 1.0
"""Precision of the normal prior of both weights, which outweighs the first image or so: of a few
images, all of whose labels came second, the likelihood alone would have infinite weights."""


def fit_weights(terms_MJT: Tensor, penalty: float = PENALTY) -> Tensor:
    """Weights (T,), in float64, of the highest penalised likelihood of every image's label.

        sum over M of -log sum_j exp(w d_j)  -  penalty |w|^2 / 2

    is concave, so Newton's method with steps that are halved until they climb finds the maximum.

    Args:
        terms_MJT: d, each class's terms less those of the label (where d is 0), for all classes but
            the predicted one.
        penalty: 0 or more.

    Example:
        >>> fit_weights(torch.tensor([[[0.0, 0.0], [-1.0, 0.5]]]), penalty=1.0)
        tensor([ 0.3827, -0.1913], dtype=torch.float64)
    """
    terms_MJT = terms_MJT.double()

    def value(weights_T: Tensor) -> Tensor:
        likelihood = -(terms_MJT @ weights_T).logsumexp(dim=1).sum()
        return likelihood - penalty * weights_T.square().sum() / 2

    weights_T = terms_MJT.new_zeros(terms_MJT.shape[2])
    for _ in range(MOST_STEPS):
        p_MJ = (terms_MJT @ weights_T).softmax(dim=1)
        mean_MT = torch.einsum("mj,mjt->mt", p_MJ, terms_MJT)
        slope_T = -mean_MT.sum(dim=0) - penalty * weights_T
        curvature_TT = torch.einsum("mj,mjt,mju->tu", p_MJ, terms_MJT, terms_MJT)
        curvature_TT = curvature_TT - mean_MT.T @ mean_MT + penalty * torch.eye(len(weights_T))
        # The least-squares solution, as terms without any variance make it singular at penalty 0.
        step_T = torch.linalg.lstsq(curvature_TT, slope_T.unsqueeze(1), driver="gelsd").solution[
            :, 0
        ]
        before = value(weights_T)
        while not value(weights_T + step_T) >= before and step_T.abs().max() > 1e-12:
            step_T = step_T / 2
        weights_T = weights_T + step_T
        if step_T.abs().max() <= 1e-9:
            break
    return weights_T


class LearnedSpread(KeepsPrecision):
    """q = softmax over c != y of a z_c + k s_c, with a and k fitted to images that were wrong.

    Both are 0, so that q is uniform, until the first fit. What is fitted to are the last 2,048
    images that were wrong since the fit before; if none was, the weights stay.

    Args:
        num_classes: K.
        num_images: of the training set.

    Example:
        >>> spread = LearnedSpread(num_classes=3, num_images=10)
        >>> z, s, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        >>> spread.remember(z, s, named_B=torch.tensor([1, 1, 0, 2]), y_B=y)
        >>> spread.fit()
        >>> spread(z, s, y).shape
        torch.Size([4, 3])
    """

    weights_T: Tensor
    terms_MJT: Tensor
    count: Tensor

    def __init__(self, num_classes: int, num_images: int) -> None:
        super().__init__()
        self.room = min(ROOM, num_images)
        self.register_buffer("weights_T", torch.zeros(2))
        # One row more, into which goes what is not to be remembered.
        self.register_buffer("terms_MJT", torch.zeros(self.room + 1, num_classes - 1, 2))
        # Not of integers: what averages models averages their buffers.
        self.register_buffer("count", torch.zeros(()))

    def forward(self, z_BK: Tensor, s_BK: Tensor, y_B: Tensor) -> Tensor:
        """The spread q (B, K) for z-scores of logits and of similarities (B, K)."""
        a, k = self.weights_T
        return softmax_target(a * z_BK + k * s_BK, y_B)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; InputError if the checkpoint is of another number of images or classes."""
        saved = state_dict.get(prefix + "terms_MJT")
        if saved is not None and saved.shape != self.terms_MJT.shape:
            made, here = (
                f"{len(t) - 1} images and {t.shape[1] + 1} classes" for t in (saved, self.terms_MJT)
            )
            raise InputError(
                f"the checkpoint remembers {made}, and this objective {here}; build it with the "
                "numbers of the checkpoint, or load the model's weights alone"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def remember(self, z_BK: Tensor, s_BK: Tensor, named_B: Tensor, y_B: Tensor) -> None:
        """Keep the terms of those images of a batch, of all processes, that are wrong.

        Args:
            z_BK: z-scores of the logits over the classes that were not predicted.
            s_BK: those of the similarities to the predicted class.
            named_B: the predicted class.
            y_B: labels.
        """
        terms = []
        for values_BK in (z_BK, s_BK):
            relative_BK = values_BK - values_BK.gather(1, y_B.unsqueeze(1))
            terms.append(non_target(relative_BK, named_B))
        is_wrong_B = gathered(~true_mask(z_BK, y_B).gather(1, named_B.unsqueeze(1)).squeeze(1))
        terms_BJT = gathered(torch.stack(terms, dim=2).to(self.terms_MJT))
        # Nothing here is decided in Python, so that the step can be recorded (training/steps.py).
        rank_B = is_wrong_B.cumsum(dim=0) - 1
        is_kept_B = is_wrong_B & (rank_B < self.room)
        place_B = torch.where(is_kept_B, (self.count.long() + rank_B) % self.room, self.room)
        self.terms_MJT[place_B] = terms_BJT * is_kept_B[:, None, None]
        self.count += is_kept_B.sum()

    @torch.no_grad()
    def fit(self) -> None:
        """Fit the weights to what is remembered, if anything is, and forget it."""
        images = min(int(self.count), self.room)
        if images:
            self.weights_T.copy_(fit_weights(self.terms_MJT[:images].cpu()))
        self.count.zero_()
