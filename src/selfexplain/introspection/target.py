"""From class maps (B, K, H, W) to similarities s (B, K), and from these to a soft target q (B, K).

The class maps of one image are K small pictures of where the model sees each class. A measure turns
them into one number for each class, larger where the class is more like the true one; the entry of
the true class itself is left as it falls out, since a target never reads it. A target is a
distribution over the non-true classes: q_y = 0, and the sum is 1.

Sources: the reading of class similarity from explanations is Introspective Learning's (Gu, Wu and
Tresp 2020, arXiv 2009.09140); the measures below are this project's own choices. Votes of places
are in the spirit of Zipf's label smoothing (Liang et al. 2022), which ranks classes by them.

Shape suffixes: B batch, K classes, H and W space, N = H W places; in KK the true class is first.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import world_size
from selfexplain.introspection.options import MapSimilarity
from selfexplain.objectives.shared.base import EXTRA, Counts, true_mask


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
    """s_c = <e_c, e_y> / (|e_c| |e_y|), in [-1, 1]; 0 where a map is zero. Shape (B, K)."""
    unit_BKN: Tensor = F.normalize(maps_BKN, dim=2)
    return (unit_BKN * _of_true_class(unit_BKN, y_B)).sum(dim=2)


def distance(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """s_c = -|e_c - e_y|, the negative Euclidean distance, in the maps' units. Shape (B, K)."""
    apart_BK: Tensor = torch.linalg.vector_norm(maps_BKN - _of_true_class(maps_BKN, y_B), dim=2)
    return -apart_BK


def votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """s_c = mean over places of softmax over the non-true classes of e(place): soft votes. (B, K).

    Every place of the map votes, with a mass of one, for the classes that it would name if it were
    not allowed to name the true one.
    """
    return place_votes(maps_BKN, y_B).mean(dim=2)


def attended_votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """Votes weighted by where the model sees the true class: s_c = sum_n a_n vote_c(n). (B, K).

    The weights a are the positive part of the true class's map, normalised to sum to one (even
    weights where nothing is positive): "where I see the true class, what else do I see?"
    """
    seen_B1N = _of_true_class(maps_BKN, y_B).relu()
    total_B11 = seen_B1N.sum(dim=2, keepdim=True)
    even = 1.0 / maps_BKN.shape[2]
    weight_B1N = torch.where(total_B11 > 0, seen_B1N / total_B11.clamp_min(1e-12), even)
    return (place_votes(maps_BKN, y_B) * weight_B1N).sum(dim=2)


def place_votes(maps_BKN: Tensor, y_B: Tensor) -> Tensor:
    """Softmax over the non-true classes at every place: (B, K, N), zero at the true class."""
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


# A running mean of similarities for each true class, kept across steps, processes and
# checkpoints.


class RunningClassMean(nn.Module):
    """Exponential running mean of rows s (B, K), one row for each true class.

    A class's first batch sets its row; each later batch moves it by (1 - momentum) towards the
    batch's mean. With several processes the batch is the global one, reduced over the default
    process group, all of whose processes must take part. Both buffers are float32 whatever the
    model is cast to.

    Args:
        momentum: share of the old mean that is kept at each update, in [0, 1].
        num_classes: K; 0 if that is not known, and then the buffers take their shape from the first
            batch. If it is another than the batches', they do, too, with a warning.
    """

    mean_KK: Tensor
    seen_K: Tensor

    def __init__(self, momentum: float, num_classes: int = 0) -> None:
        super().__init__()
        self.momentum = momentum
        # Not boolean: what averages models averages their buffers, and booleans have no mean.
        self.register_buffer("mean_KK", torch.zeros(num_classes, num_classes))
        self.register_buffer("seen_K", torch.zeros(num_classes))
        self.counts = Counts(updates=0)

    @property
    def started(self) -> bool:
        """Whether any batch has been seen; to ask does not wait for a device."""
        return self.counts["updates"] > 0

    def forward(self, y_B: Tensor) -> Tensor:
        """Rows of the labels, (B, K); zeros, a tie of all classes, for one not seen yet."""
        return self.mean_KK[y_B]

    @torch.no_grad()
    def update(self, s_BK: Tensor, y_B: Tensor) -> None:
        """Include the similarities (B, K) of one batch with true classes (B,)."""
        s_BK, classes = s_BK.float(), s_BK.shape[1]
        if len(self.seen_K) != classes:
            self._resize(classes, s_BK.device)
        onehot_BK = F.one_hot(y_B, classes).to(s_BK.dtype)
        with torch.autocast(s_BK.device.type, enabled=False):
            sums_KK, count_K = onehot_BK.T @ s_BK, onehot_BK.sum(dim=0)
        if world_size() > 1:
            dist.all_reduce(sums_KK)
            dist.all_reduce(count_K)
        present_K = count_K > 0
        batch_KK = sums_KK / count_K.clamp_min(1).unsqueeze(1)
        keep_K = torch.where(self.seen_K > 0, self.momentum, 0.0)
        keep_K1 = torch.where(present_K, keep_K, 1.0).unsqueeze(1)
        mean_KK = keep_K1 * self.mean_KK + (1 - keep_K1) * batch_KK
        self._keep(mean_KK, torch.maximum(self.seen_K, present_K.to(self.seen_K.dtype)))
        self.counts["updates"] += 1

    def get_extra_state(self) -> Tensor:
        """The number of updates, (1,)."""
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        self.counts.load(state)

    def _keep(self, mean_KK: Tensor, seen_K: Tensor) -> None:
        """Keep both in place: a recorded step (training/steps.py) knows where.

        Nothing can be written into what was made in inference mode outside it.
        """
        if self.mean_KK.is_inference() and not torch.is_inference_mode_enabled():
            self.mean_KK, self.seen_K = mean_KK, seen_K
        else:
            self.mean_KK.copy_(mean_KK)
            self.seen_K.copy_(seen_K)

    def _resize(self, classes: int, device: torch.device) -> None:
        """Begin anew with another number of classes."""
        if len(self.seen_K):
            warnings.warn(
                f"the running class means were made for {len(self.seen_K)} classes, as the model's "
                f"last layer has, and its logits are of {classes}; pass num_classes={classes} to "
                "the objective, so that its state has one shape from the start",
                stacklevel=2,
            )
        self.mean_KK = torch.zeros(classes, classes, device=device)
        self.seen_K = torch.zeros(classes, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but stay in float32 where the model is cast."""
        before = self.mean_KK, self.seen_K
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean_KK.dtype != before[0].dtype:
            self.mean_KK, self.seen_K = (old.to(self.mean_KK.device) for old in before)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; those of version 0.1.0 are empty before the first batch, and not counted."""
        seen_K = state_dict.get(prefix + "seen_K")
        if seen_K is not None:
            state_dict.setdefault(prefix + EXTRA, torch.tensor([int(seen_K.any())]))
            if not len(seen_K):
                state_dict[prefix + "mean_KK"] = torch.zeros_like(self.mean_KK)
                state_dict[prefix + "seen_K"] = torch.zeros_like(self.seen_K)
            elif len(seen_K) != len(self.seen_K):
                self.mean_KK = self.mean_KK.new_zeros(len(seen_K), len(seen_K))
                self.seen_K = self.seen_K.new_zeros(len(seen_K))
        super()._load_from_state_dict(state_dict, prefix, *args)


def find_num_classes(model: nn.Module) -> int:
    """The number of classes that a model declares, or else of its last linear layer; 0 if neither.

    A guess: layers stand in the order in which they were made, and the last may not be the head.
    """
    for module in model.modules():  # the model itself first, then what it wraps
        config = getattr(module, "config", None)
        for number in (getattr(module, "num_classes", 0), getattr(config, "num_labels", 0)):
            if isinstance(number, int) and number > 0:
                return number
    linear = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else 0


# Losses that teach a soft target to the logits.
#
# Every target is detached by its maker: were it not, the network could lower the loss by making
# its explanations alike instead of its predictions right.


def soft_cross_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Mean over the batch of - sum_c target_c log p_c, in nats: a scalar.

    Example:
        >>> import torch
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])).exp()
        tensor(2.)
    """
    return F.cross_entropy(logits_BK, target_BK)


def distillation_loss(logits_BK: Tensor, target_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(target^(T) || p^(T)), both softened by T (Hinton et al. 2015, section 2): a scalar.

    target^(T) is the target's T-th root, normalised, which is what softmax(log target / T) gives.
    """
    softened_BK = target_BK.clamp_min(0).pow(1 / temperature)
    softened_BK = softened_BK / softened_BK.sum(dim=1, keepdim=True)
    log_p_BK = F.log_softmax(logits_BK / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_BK, softened_BK, reduction="batchmean")


def softmax_target(s_BK: Tensor, y_B: Tensor, tau: float = 1.0) -> Tensor:
    """q_c = softmax over c != y of s_c / tau.

    A large |tau| approaches the uniform target of label smoothing; a negative tau gives the mass to
    the classes that look *least* like the true one.

    Example:
        >>> softmax_target(torch.zeros(1, 3), torch.tensor([0]))
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    return (s_BK / tau).masked_fill(true_mask(s_BK, y_B), float("-inf")).softmax(dim=1)


def zipf_target(s_BK: Tensor, y_B: Tensor, exponent: float = 1.0) -> Tensor:
    """q_c proportional to rank_c ** -exponent, rank 1 for the most similar non-true class.

    Zipf's law over ranks, as in Zipf's label smoothing (Liang et al. 2022): only the order of the
    similarities counts, not their scale, so no temperature has to follow the training. Classes that
    are equally similar share the mass of their ranks evenly.
    """
    is_true_BK = true_mask(s_BK, y_B)
    sorted_BK, order_BK = s_BK.masked_fill(is_true_BK, float("-inf")).sort(dim=1, descending=True)
    ranks = torch.arange(1, s_BK.shape[1] + 1, device=s_BK.device, dtype=s_BK.dtype)
    mass_BK = _mean_over_ties(ranks.pow(-exponent).expand_as(s_BK), sorted_BK)
    mass_BK = torch.empty_like(s_BK).scatter_(1, order_BK, mass_BK).masked_fill(is_true_BK, 0.0)
    return mass_BK / mass_BK.sum(dim=1, keepdim=True)


def _mean_over_ties(mass_BK: Tensor, sorted_BK: Tensor) -> Tensor:
    """Give neighbours of equal value the mean of their masses, for no order among them is known."""
    is_new_BK = torch.zeros_like(sorted_BK, dtype=torch.int64)
    is_new_BK[:, 1:] = sorted_BK[:, 1:] != sorted_BK[:, :-1]
    group_BK = is_new_BK.cumsum(dim=1)
    sums_BK = torch.zeros_like(sorted_BK).scatter_add_(1, group_BK, mass_BK)
    counts_BK = torch.zeros_like(sorted_BK).scatter_add_(1, group_BK, torch.ones_like(sorted_BK))
    return (sums_BK / counts_BK.clamp_min(1)).gather(1, group_BK)


def uniform_target(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """q_c = 1 / (K - 1) for c != y: the control that knows nothing of similarity.

    Example:
        >>> uniform_target(torch.tensor([[9.0, 1.0, 5.0]]), torch.tensor([0]))
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    return (~true_mask(s_BK, y_B)).to(s_BK.dtype) / (s_BK.shape[1] - 1)


def permuted_target(q_BK: Tensor, y_B: Tensor, generator: torch.Generator) -> Tensor:
    """The same values given to other non-true classes, shuffled anew for each image.

    The control for "similarity matters": its entropy is q's, its knowledge is none. The generator
    is on the CPU, so that every device draws the same.
    """
    return shuffled(q_BK, y_B, torch.rand(q_BK.shape, generator=generator).to(q_BK.device))


def shuffled(q_BK: Tensor, y_B: Tensor, keys_BK: Tensor) -> Tensor:
    """The values of a target with q_y = 0 on its non-true classes, in the order of keys (B, K)."""
    is_true_BK = true_mask(q_BK, y_B)
    # The true class sorts last in both orders, so its zero stays where it is.
    source_BK = keys_BK.masked_fill(is_true_BK, float("inf")).argsort(dim=1)
    places_BK = is_true_BK.to(torch.int8).argsort(dim=1, stable=True)
    return torch.empty_like(q_BK).scatter_(1, places_BK, q_BK.gather(1, source_BK))


def blend_uniform(q_BK: Tensor, y_B: Tensor, share: float) -> Tensor:
    """(1 - share) q + share uniform, over the non-true classes."""
    return torch.lerp(q_BK, uniform_target(q_BK, y_B), share)


def mixed_target(q_BK: Tensor, y_B: Tensor, mass: float | Tensor) -> Tensor:
    """(1 - m) onehot(y) + m q, with m a number or one number for each image (B,).

    Example:
        >>> mixed_target(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0]), 0.25)
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    onehot_BK = F.one_hot(y_B, q_BK.shape[1]).to(q_BK.dtype)
    m = mass.unsqueeze(1) if isinstance(mass, Tensor) else mass
    return (1 - m) * onehot_BK + m * q_BK
