"""Introspection with a mass of its own: how much of the target goes to other classes is remembered.

PS-KD (Kim et al. 2021) takes both from the model's prediction of the last epoch: how much of the
target the other classes get, and which of them. Here the prediction gives the amount alone. Who
gets it is said by the explanations; or by both; or by nobody, which is the control.

The guarded loss is MaxSup's (Zhou et al. 2025, "MaxSup: Overcoming Representation Collapse in Label
Smoothing"), with a mass and a spread of its own in place of a number and of all classes.

Shape suffixes: B batch, C channels, H and W space, K classes, N training images.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.distributed import gathered
from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.hooks import Captured
from selfexplain.introspection.objective import Introspective
from selfexplain.introspection.options import (
    Aggregation,
    OwnMassControl,
    OwnMassSource,
    SimilarityMeasure,
)
from selfexplain.introspection.spread import (
    LearnedSpread,
    geometric_target,
    hashed_permutation,
)
from selfexplain.introspection.target import (
    find_num_classes,
    mixed_target,
    soft_cross_entropy,
    softmax_target,
    uniform_target,
)
from selfexplain.objectives.options import OwnMassOptions
from selfexplain.objectives.ps_kd import check_places
from selfexplain.objectives.shared.base import (
    ObjectiveContext,
    Range,
    Tunable,
    true_mask,
)
from selfexplain.objectives.shared.memory import Epochs, RisingShare, check_rows
from selfexplain.objectives.shared.teacher import WeightAverage


def standardized_similarity(s_BK: Tensor, y_B: Tensor) -> Tensor:
    """Similarities as z-scores over each image's non-target classes: (B, K), 0 at the target.

    A similarity has whatever scale its measure gives it and training leaves it; of a z-score one
    temperature can be chosen. Classes that are all equally similar get 0.
    """
    is_target_BK = true_mask(s_BK, y_B)
    count = s_BK.shape[1] - 1
    mean_B1 = s_BK.masked_fill(is_target_BK, 0.0).sum(dim=1, keepdim=True) / count
    centered_BK = (s_BK - mean_B1).masked_fill(is_target_BK, 0.0)
    std_B1 = (centered_BK.square().sum(dim=1, keepdim=True) / count).sqrt()
    return centered_BK / std_B1.clamp_min(torch.finfo(s_BK.dtype).tiny)


def guarded_cross_entropy(logits_BK: Tensor, q_BK: Tensor, y_B: Tensor, mass_B: Tensor) -> Tensor:
    """CE(softmax(z), y) + m (max z - sum_c q_c z_c), mean over the batch: a scalar.

    Its gradient by an image's logits is p - onehot(y) + m (onehot(argmax z) - q): the mass that q
    gets is taken from the largest logit. Where that is the label's the loss is the cross-entropy
    with (1 - m) onehot(y) + m q; where it is another's, a label that has not been learned yet
    keeps its mass.

    Args:
        logits_BK: z.
        q_BK: with q_y = 0 and sum 1; a constant.
        y_B: labels.
        mass_B: m in [0, 1]; a constant.

    Example:
        >>> z, q = torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]])
        >>> y, mass = torch.tensor([0]), torch.tensor([0.5])
        >>> guarded_cross_entropy(z, q, y, mass) - torch.nn.functional.cross_entropy(z, y)
        tensor(0.5000)
    """
    largest_B = logits_BK.gather(1, logits_BK.argmax(dim=1, keepdim=True)).squeeze(1)
    pull_B = largest_B - (q_BK * logits_BK).sum(dim=1)
    return F.cross_entropy(logits_BK, y_B) + (mass_B * pull_B).mean()


class OwnMass(RisingShare, Introspective):
    """L = CE(softmax(z), (1 - m) onehot(y) + m q), with a mass m that the model gives itself.

        m = min(cap, alpha_t (1 - p_{t-1}(y | x))),   alpha_t = alpha t / T
        q = softmax over c != y of kappa times the z-scores of s_c

    p_{t-1}(y | x) is what the model gave the image's label in epoch t - 1, s_c how much class c's
    explanation resembles the label's (`attribution_cosine`, unless told otherwise). With kappa = 0
    the mass is spread evenly and no explanation is made: the control for whether the similarity
    adds anything. In the first epoch, and of an image that was not seen yet, m is 0.

    Further forms of q: with rho below 1 it is r^(1 - rho) q^rho, normalised, where r is what the
    model predicted for the other classes in epoch t - 1, so that rho = 0 is PS-KD's target; with
    kappa learned it is `LearnedSpread`'s, whose two weights are fitted at the start of every epoch.
    Of m: from the average, p(y | x) is that of a running average of the model's weights, which
    sees the mirrored image in evaluation mode; m is then 0 in the first of several epochs. The
    guarded loss (`guarded_cross_entropy`) takes the mass from the largest logit.

    Args:
        model: maps images (B, C, H, W) to logits (B, K); its logits are a linear map of an averaged
            feature map, unless the kind is another, or kappa or rho is 0.
        num_images: N, images in the training set.
        num_classes: K, which rho below 1, kappa learned and aggregation class need to know; None
            for what the model says, or its last linear layer has.
        alpha: share of its own mass in the last epoch, in [0, 1].
        kappa: how far the mass leans to the classes with similar explanations; negative: away;
            learned: as images that were wrong would have it.
        cap: the most that m may be, in [0, 1].
        control: permuted gives the explanations' values to shuffled classes.
        kind: of the class maps, as for `Introspective`.
        layer: whose maps are read; None for the last feature map.
        similarity: how two classes' explanations are compared; None for the kind's own.
        aggregation: class takes s from a running mean over the images of the class.
        guard: whether the mass is taken from the largest logit.
        rho: exponent of the explanations' share in the spread, in [0, 1].
        mass_from: last_epoch or average.
        average_decay: share of the average that a step keeps, in [0, 1).
        mirror: whether the average sees the mirrored image, or the image itself.

    Raises:
        InputError: an option is out of its limits, or K is needed and not known; at a call, as
            `Introspective`, or if the images' places are missing or do not fit, or no epoch was
            begun.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> objective = OwnMass(model, num_images=10, rho=0.5, guard=True)
        >>> objective.begin_epoch(0, epochs=2)
        >>> x, y, index = torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), torch.tensor([7, 1])
        >>> objective(x, y, index)["loss"].backward()
    """

    wants_indices = True
    tunable: ClassVar[Mapping[str, Tunable]] = {"alpha": Range(0.3, 1.0)}
    past_N: Tensor
    past_NK: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        num_images: int,
        num_classes: int | None = None,
        alpha: float = OwnMassOptions.alpha,
        kappa: float | Literal["learned"] = OwnMassOptions.kappa,
        cap: float = OwnMassOptions.cap,
        control: OwnMassControl = OwnMassOptions.control,
        kind: MapKind = OwnMassOptions.kind,
        layer: str | None = OwnMassOptions.layer,
        similarity: SimilarityMeasure | None = OwnMassOptions.similarity,
        aggregation: Aggregation = OwnMassOptions.aggregation,
        guard: bool = OwnMassOptions.guard,
        rho: float = OwnMassOptions.rho,
        mass_from: OwnMassSource = OwnMassOptions.mass_from,
        average_decay: float = OwnMassOptions.average_decay,
        mirror: bool = OwnMassOptions.mirror,
    ) -> None:
        OwnMassOptions.check(
            alpha=alpha, kappa=kappa, cap=cap, control=control, kind=kind, layer=layer,
            similarity=similarity, aggregation=aggregation, guard=guard, rho=rho,
            mass_from=mass_from, average_decay=average_decay, mirror=mirror,
        )  # fmt: skip
        super().__init__(
            model, num_classes=num_classes, form="mixed", kind=kind, layer=layer,
            similarity=similarity, aggregation=aggregation,
        )  # fmt: skip
        self.alpha, self.kappa, self.cap, self.own_control = alpha, kappa, cap, control
        self.guard, self.rho, self.mirror = guard, rho, mirror
        self.epochs = Epochs()
        self.num_classes = 0  # that tables are made for
        # What the model gave each image's label when it last saw it; 1, no mass, before that.
        self.register_buffer("past_N", torch.ones(num_images))
        if rho < 1:  # what it gave every class
            self.num_classes = _known_classes(model, num_classes)
            self.register_buffer("past_NK", torch.zeros(num_images, self.num_classes))
        self.learned: LearnedSpread | None = None
        if kappa == "learned":
            self.num_classes = _known_classes(model, num_classes)
            self.learned = LearnedSpread(self.num_classes, num_images)
        self.average: WeightAverage | None = None
        self._averages: list[tuple[nn.Module, WeightAverage]] = []
        if mass_from == "average":
            self.average = WeightAverage(model, average_decay)
            self._averages.append((model, self.average))

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with a memory for the run's images and classes."""
        return cls(model, num_images=context.num_images, num_classes=context.num_classes, **options)

    def replace_model(self, model: nn.Module) -> None:
        """Train another model from now on; each has its own average of weights."""
        super().replace_model(model)
        if self.average is None:
            return
        made = next((average for of, average in self._averages if of is model), None)
        if made is None:
            made = WeightAverage(model, self.average.decay)
            self._averages.append((model, made))
        like = next(model.parameters(), None)
        self.average = made if like is None else made.to(like.device)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Raise the share, and fit the learned weights to what the epoch before got wrong."""
        if self.epochs.begin(epoch, epochs) and self.learned is not None:
            self.learned.fit()

    @property
    def explains(self) -> bool:
        """Whether the target reads explanations."""
        return self.kappa != 0 and self.rho > 0

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Once class means, if any, have begun: an epoch's share is fixed, and nothing is drawn."""
        return self.class_mean is None or self.class_mean.started

    def forward(self, x_BCHW: Tensor, y_B: Tensor, *index_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W), labels (B,) and places in the training set (B,).

        Terms: mass, the mean m; with kappa learned, logit_weight and kappa, the two weights.
        """
        if self.average is not None and self._learns_now():
            self.average.update(self.model)
        if self.explains:
            logits_BK, captured = self._explained_forward(x_BCHW, y_B)
        else:
            logits_BK, captured = self._checked(self.model(x_BCHW), y_B), None
        place_B = check_places(index_B, y_B, len(self.past_N))
        if self.training:
            self.epochs.check_begun()
        q_BK = self._spread(logits_BK, captured, y_B, place_B)
        mass_B = self._own_mass(x_BCHW, y_B, place_B)
        if self.guard:
            wide = torch.promote_types(q_BK.dtype, mass_B.dtype)
            loss = guarded_cross_entropy(logits_BK.to(wide), q_BK, y_B, mass_B)
        else:
            target_BK = mixed_target(q_BK, y_B, mass_B)
            loss = soft_cross_entropy(logits_BK.to(target_BK.dtype), target_BK)
        out = {
            "loss": loss,
            "output": logits_BK if torch.is_grad_enabled() else logits_BK.detach(),
            "mass": mass_B.mean().detach(),
        }
        if self.learned is not None:
            out["logit_weight"], out["kappa"] = self.learned.weights_T.clone()
        if self._learns_now():
            self._remember(logits_BK, y_B, place_B)
            if self.learned is not None and captured is not None:
                self._remember_wrong(logits_BK, captured, y_B, place_B)
        return out

    def target_of(self, similarity_BK: Tensor, y_B: Tensor) -> Tensor:
        """Where the own mass goes by similarities (B, K) alone: q (B, K).

        Not by the memory (rho), nor by the logits (kappa learned).

        Example:
            >>> from selfexplain.models import build_model
            >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
            >>> objective = OwnMass(model, num_images=4, kappa=0.0)
            >>> objective.target_of(torch.tensor([[1.0, 0.1, 0.4]]), torch.tensor([0]))
            tensor([[0.0000, 0.5000, 0.5000]])
        """
        kappa = float(self.kappa) if self.learned is None else self.learned.weights_T[1]
        return softmax_target(kappa * standardized_similarity(similarity_BK, y_B), y_B)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; InputError if the checkpoint is of another number of images or classes."""
        check_rows(state_dict, prefix + "past_N", self.past_N, "num_images")
        if self.rho < 1:
            check_rows(state_dict, prefix + "past_NK", self.past_NK, "num_images num_classes")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _checked(self, logits_BK: object, y_B: Tensor) -> Tensor:
        """The model's logits (B, K), if there are as many classes as in the tables."""
        checked_BK = super()._checked(logits_BK, y_B)
        if self.num_classes not in (0, checked_BK.shape[1]):
            raise InputError(
                f"the objective was made for {self.num_classes} classes, and the model's logits "
                f"are of {checked_BK.shape[1]}; pass num_classes={checked_BK.shape[1]} to the "
                "objective"
            )
        return checked_BK

    def _target(
        self, logits_BK: Tensor, captured: Captured | None, y_B: Tensor, learn: bool
    ) -> Tensor:
        """The spread without the memory, which is asked for by place."""
        del learn
        assert captured is not None, "there are no steps without maps"
        return self._explained_spread(logits_BK, captured, y_B, None)

    def _spread(
        self, logits_BK: Tensor, captured: Captured | None, y_B: Tensor, place_B: Tensor
    ) -> Tensor:
        """Where the mass goes, q (B, K), detached."""
        if captured is None:
            q_BK = uniform_target(logits_BK.detach().float(), y_B)
            q_BK = self._under_control(q_BK, y_B, place_B)
        else:
            if self.class_mean is not None and self._learns_now():
                self.class_mean.update(self._similarity(logits_BK, captured, y_B), y_B)
            q_BK = self._explained_spread(logits_BK, captured, y_B, place_B)
        if self.rho == 1:
            return q_BK
        past_BK = self.past_NK[place_B]
        return geometric_target(past_BK, q_BK.to(past_BK.dtype), y_B, self.rho)

    def _explained_spread(
        self, logits_BK: Tensor, captured: Captured, y_B: Tensor, place_B: Tensor | None
    ) -> Tensor:
        if self.learned is None:
            s_BK = self._aggregate(self._similarity(logits_BK, captured, y_B), y_B)
            q_BK = self.target_of(s_BK, y_B)
            return self._under_control(q_BK, y_B, place_B)
        return self.learned(*self._terms(logits_BK, captured, y_B, place_B), y_B)  # type: ignore[no-any-return]

    def _terms(
        self, logits_BK: Tensor, captured: Captured, of_B: Tensor, place_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Z-scores (B, K) over the classes other than these (B,): of logits, of similarities."""
        z_BK = standardized_similarity(logits_BK.detach().float(), of_B)
        s_BK = self._aggregate(self._similarity(logits_BK, captured, of_B), of_B)
        s_BK = standardized_similarity(s_BK, of_B)
        return z_BK, self._under_control(s_BK, of_B, place_B)

    def _under_control(self, values_BK: Tensor, y_B: Tensor, place_B: Tensor | None) -> Tensor:
        """The same values, 0 at y, on the classes that the control gives them to."""
        if self.own_control == "none" or place_B is None:
            return values_BK
        return hashed_permutation(values_BK, y_B, place_B, self.epochs.done()[0])

    @torch.no_grad()
    def _own_mass(self, x_BCHW: Tensor, y_B: Tensor, place_B: Tensor) -> Tensor:
        """How much of each image's target the other classes get, m (B,)."""
        share = self.share
        if self.average is None:
            p_B = self.past_N[place_B]
        else:
            view_BCHW = x_BCHW.flip(-1) if self.mirror else x_BCHW
            p_BK = self.average(view_BCHW).softmax(dim=1, dtype=self.past_N.dtype)
            p_B = p_BK.gather(1, y_B.unsqueeze(1)).squeeze(1)
            done, epochs = self.epochs.done()
            if done == 1 < epochs:  # the average is of weights that have learned nothing yet
                share = 0.0
        return (share * (1 - p_B)).clamp_max(self.cap)

    @torch.no_grad()
    def _remember(self, logits_BK: Tensor, y_B: Tensor, place_B: Tensor) -> None:
        p_BK = logits_BK.softmax(dim=1, dtype=self.past_N.dtype)
        places = gathered(place_B)
        self.past_N[places] = gathered(p_BK.gather(1, y_B.unsqueeze(1)).squeeze(1))
        if self.rho < 1:
            self.past_NK[places] = gathered(p_BK)

    @torch.no_grad()
    def _remember_wrong(
        self, logits_BK: Tensor, captured: Captured, y_B: Tensor, place_B: Tensor
    ) -> None:
        """Keep what the wrong images say of the learned weights."""
        assert self.learned is not None
        named_B = logits_BK.argmax(dim=1)
        terms = self._terms(logits_BK, captured, named_B, place_B)
        self.learned.remember(*terms, named_B=named_B, y_B=y_B)


def _known_classes(model: nn.Module, num_classes: int | None) -> int:
    """K as given or as the model has it."""
    classes = find_num_classes(model) if num_classes is None else num_classes
    if classes < 2:
        raise InputError(
            f"num_classes is {classes}; pass the number of the model's classes, at least 2, which "
            "rho below 1 and kappa learned need to know"
        )
    return classes
