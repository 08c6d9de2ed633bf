"""How much another class's explanation resembles the true class's: maps (B, K, H, W) to s (B, K).

The class maps of one image are K small pictures of where the model sees each class. Each function
here turns them into one number for each class, larger where the class is more like the true one.
The entry of the true class itself is left as it falls out, since a target never reads it.

Sources: the reading of class similarity from explanations is Introspective Learning's (Gu, Wu and
Tresp 2020, arXiv 2009.09140); the measures below are this project's own choices. Votes of places
are in the spirit of Zipf's label smoothing (Liang et al. 2022), which ranks classes by them.

Shape suffixes: B batch, K classes, H and W space, N = H W places.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from selfexplain.introspection.options import MapSimilarity
from selfexplain.objectives.non_true import true_mask


def similarity_to_true(
    maps_BKHW: Tensor, y_B: Tensor, *, measure: MapSimilarity = "cosine", centre: bool = False
) -> Tensor:
    """Similarity of every class's map to the true class's map.

    Args:
        maps_BKHW: class maps of each image.
        y_B: true classes.
        measure: one of the functions of this file.
        centre: first subtract from each map the mean of the image's maps over the classes, so that
            what all classes share (the object's outline) does not count as resemblance.

    Returns:
        s (B, K); larger is more alike.

    Example:
        >>> maps = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]]])
        >>> s = similarity_to_true(maps, torch.tensor([0]))
        >>> bool(s[0, 1] > s[0, 2])
        True
    """
    maps_BKN = maps_BKHW.flatten(2)
    if centre:
        maps_BKN = maps_BKN - maps_BKN.mean(dim=1, keepdim=True)
    return _MEASURES[measure](maps_BKN, y_B)


def attribution_cosine(
    features_BFHW: Tensor, weight_KF: Tensor, y_B: Tensor, *, centre: bool = False
) -> Tensor:
    """Cosine of the classes' attributions to every feature at every place: s (B, K), in [-1, 1].

    At a feature map that is averaged into a linear head, feature x gradient before the sum over
    features is e_c = w_c a, of shape (F, H, W), up to a constant. Two classes are alike if they
    count on the same of the features that this image shows, which a class map, a sum over features,
    no longer tells. The maps need not be made: with the image's energies E_f = sum_hw a_fhw^2,

        s_c = sum_f E_f w_cf w_yf / sqrt(sum_f E_f w_cf^2  sum_f E_f w_yf^2)

    Args:
        features_BFHW: the pooled feature map.
        weight_KF: weights of the linear head.
        y_B: true classes.
        centre: first subtract the mean of the head's weights over the classes.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> s = attribution_cosine(torch.ones(1, 2, 3, 3), weight, torch.tensor([0]))
        >>> bool(s[0, 1] > s[0, 2])
        True
    """
    if centre:
        weight_KF = weight_KF - weight_KF.mean(dim=0)
    energy_BF = features_BFHW.square().sum(dim=(2, 3))
    products_BK = (energy_BF * weight_KF[y_B]) @ weight_KF.T
    norms_BK = (energy_BF @ weight_KF.square().T).sqrt()
    norm_y_B1 = norms_BK.gather(1, y_B.unsqueeze(1))
    return products_BK / (norms_BK * norm_y_B1).clamp_min(torch.finfo(norms_BK.dtype).tiny)


def cosine(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """s_c = <e_c, e_y> / (|e_c| |e_y|), in [-1, 1]; 0 where a map is zero. Shape (B, K).

    Example:
        >>> cosine(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([0]))
        tensor([[1., 0.]])
    """
    unit_BKN: Tensor = F.normalize(maps_BKN, dim=2)
    return (unit_BKN * _of_true_class(unit_BKN, y_B)).sum(dim=2)


def distance(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """s_c = -|e_c - e_y|, the negative Euclidean distance, in the maps' units. Shape (B, K).

    Example:
        >>> distance(torch.tensor([[[1.0, 0.0], [1.0, 2.0]]]), torch.tensor([0]))
        tensor([[-0., -2.]])
    """
    apart_BK: Tensor = torch.linalg.vector_norm(maps_BKN - _of_true_class(maps_BKN, y_B), dim=2)
    return -apart_BK


def votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """s_c = mean over places of softmax over the non-true classes of e(place): soft votes. (B, K).

    Every place of the map votes, with a mass of one, for the classes that it would name if it were
    not allowed to name the true one.

    Example:
        >>> votes(torch.zeros(1, 3, 4), torch.tensor([0]))
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    return place_votes(maps_BKN, y_B).mean(dim=2)


def attended_votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """Votes weighted by where the model sees the true class: s_c = sum_n a_n vote_c(n). (B, K).

    The weights a are the positive part of the true class's map, normalised to sum to one (even
    weights where nothing is positive): "where I see the true class, what else do I see?"

    Example:
        >>> maps = torch.tensor([[[1.0, 0.0], [9.0, 0.0], [0.0, 9.0]]])
        >>> s = attended_votes(maps, torch.tensor([0]))
        >>> bool(s[0, 1] > 0.99)
        True
    """
    seen_B1N = _of_true_class(maps_BKN, y_B).relu()
    total_B11 = seen_B1N.sum(dim=2, keepdim=True)
    even = 1.0 / maps_BKN.shape[2]
    weight_B1N = torch.where(total_B11 > 0, seen_B1N / total_B11.clamp_min(1e-12), even)
    return (place_votes(maps_BKN, y_B) * weight_B1N).sum(dim=2)


def place_votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """Softmax over the non-true classes at every place: (B, K, N), zero at the true class.

    Example:
        >>> place_votes(torch.zeros(1, 3, 1), torch.tensor([2])).flatten()
        tensor([0.5000, 0.5000, 0.0000])
    """
    is_true_BK = true_mask(maps_BKN[..., 0], y_B)
    return maps_BKN.masked_fill(is_true_BK.unsqueeze(2), float("-inf")).softmax(dim=1)


def _of_true_class(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """The true class's map of each image, (B, 1, N)."""
    return maps_BKN[torch.arange(len(y_B), device=maps_BKN.device), y_B].unsqueeze(1)


_MEASURES: dict[MapSimilarity, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "distance": distance,
    "votes": votes,
    "attended_votes": attended_votes,
}
