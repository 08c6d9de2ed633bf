"""Which labels are doubted by linear heads that were not fitted to them.

Each image is judged by a head on frozen features that was fitted to other images: a head that has
seen a wrong label believes it. `studies/mislabels.py` measures this against confident learning on
labels that were changed on purpose.

Shape suffixes: N images, F features, K classes, L strengths.
"""

import torch
from torch import Tensor

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge penalty, in units of the mean squared feature summed over the images of a fit."""
TEMPERATURES = tuple(2.0**power for power in range(-2, 8))
"""Factors on a head's scores, of which one is chosen."""


def fold_of(labels_N: Tensor, folds: int = FOLDS) -> Tensor:
    """Fold (N,) of each image: those of a class are dealt out in turn, so that folds are alike."""
    fold_N = torch.zeros_like(labels_N)
    for label in torch.unique(labels_N):
        mine = labels_N == label
        fold_N[mine] = torch.arange(int(mine.sum()), device=labels_N.device) % folds
    return fold_N


def out_of_fold_probabilities(
    features_NF: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    fitted_N: Tensor | None = None,
    folds: int = FOLDS,
) -> Tensor:
    """What linear heads say of images that they were not fitted to: probabilities (N, K).

    For each fold, a ridge regression from centred features to one-hot labels is fitted to the
    others. The strength of its penalty (one for all folds) is that with the smallest squared error
    on the images left out; the factor that turns scores into probabilities by a softmax is the one
    with the greatest likelihood of all labels. Nothing is drawn at random.

    Args:
        features_NF: frozen features; they must not have been trained on these labels.
        labels_N: the labels as given, right or wrong.
        num_classes: K.
        fitted_N: bool, the images that heads are fitted to and the penalty is chosen on; None for
            all. The others are judged, too.
        folds: into which the images are split.

    Returns:
        float64 probabilities; an image whose class has no other image gets them too, but no head
        knew its class.
    """
    x_NF, fold_N = features_NF.double(), fold_of(labels_N, folds)
    use_N = torch.ones_like(labels_N, dtype=torch.bool) if fitted_N is None else fitted_N
    target_NK = torch.nn.functional.one_hot(labels_N, num_classes).double()
    scores_LNK = x_NF.new_zeros(len(STRENGTHS), len(x_NF), num_classes)
    for fold in range(folds):
        out_N = fold_N == fold
        in_N = ~out_N & use_N
        if bool(out_N.any()) and bool(in_N.any()):
            scores_LNK[:, out_N] = _ridge(x_NF[in_N], target_NK[in_N], x_NF[out_N])
    best = (scores_LNK - target_NK)[:, use_N].square().sum(dim=(1, 2)).argmin()
    scores_NK = scores_LNK[best]
    likelihoods = [
        (factor * scores_NK).log_softmax(dim=1).gather(1, labels_N[:, None]).sum()
        for factor in TEMPERATURES
    ]
    return (TEMPERATURES[int(torch.stack(likelihoods).argmax())] * scores_NK).softmax(dim=1)


def _ridge(x_NF: Tensor, target_NK: Tensor, new_MF: Tensor) -> Tensor:
    """Scores (L, M, K) of new images for all strengths, by one decomposition."""
    mean_F, mean_K = x_NF.mean(dim=0), target_NK.mean(dim=0)
    centred_NF = x_NF - mean_F
    # Of the smaller of the two matrices of products, whose eigenvalues differ by zeros alone.
    wide = centred_NF.shape[1] > len(centred_NF)
    gram = centred_NF @ centred_NF.T if wide else centred_NF.T @ centred_NF
    values, vectors = torch.linalg.eigh(gram)
    unit = values.sum().clamp_min(1e-12) / x_NF.shape[1]
    new = (new_MF - mean_F) @ (centred_NF.T @ vectors if wide else vectors)
    old = vectors.T @ (target_NK if wide else centred_NF.T @ target_NK)
    return torch.stack(
        [(new / (values.clamp_min(0) + strength * unit)) @ old + mean_K for strength in STRENGTHS]
    )


def second_opinion(features_NF: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Out-of-fold probabilities (N, K) of heads fitted to the labels that first heads agree with.

    First heads judge all images; second heads are fitted without those that the first take for
    another class, so that fewer wrong labels teach them. A class of which fewer than two images
    would be left keeps all of its own.

    Example:
        >>> x = torch.cat([torch.zeros(6, 1), torch.ones(6, 1)]) + 0.01 * torch.arange(12)[:, None]
        >>> y = torch.tensor([0] * 5 + [1] * 7)  # the sixth is wrong
        >>> second_opinion(x, y, 2).gather(1, y[:, None])[:, 0].argmin()
        tensor(5)
    """
    first_NK = out_of_fold_probabilities(features_NF, labels_N, num_classes)
    agreed_N = first_NK.argmax(dim=1) == labels_N
    left_K = torch.bincount(labels_N[agreed_N], minlength=num_classes)
    return out_of_fold_probabilities(
        features_NF, labels_N, num_classes, fitted_N=agreed_N | (left_K < 2)[labels_N]
    )


def label_margins(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Margin (N,): the probability of the label less the greatest of the other classes.

    Negative where another class is likelier; the smallest are the likeliest mislabels.
    """
    own_N = probabilities_NK.gather(1, labels_N[:, None])[:, 0]
    others_NK = probabilities_NK.scatter(1, labels_N[:, None], -torch.inf)
    return own_N - others_NK.amax(dim=1)
