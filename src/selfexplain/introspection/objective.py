"""Introspective Learning as a training objective.

Source: Gu, Wu and Tresp, "Introspective Learning by Distilling Knowledge from Online
Self-explanation", ACCV 2020, arXiv 2009.09140. Of the paper the abstract and parts of the
introduction were read; what they leave open is an option here, and its default was chosen on
validation splits (docs/methods/introspective.md).

Shape suffixes: B batch, C channels, H and W space, K classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import cam, capture, maps_of_forward
from selfexplain.explanations.hooks import Captured, preserved
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.explanations.maps import CheckedLayers
from selfexplain.introspection.options import options_from
from selfexplain.introspection.target import (
    RunningClassMean,
    attribution_cosine,
    blend_uniform,
    distillation_loss,
    find_num_classes,
    mixed_target,
    permuted_target,
    similarity_to_true,
    soft_cross_entropy,
    softmax_target,
    uniform_target,
    zipf_target,
)
from selfexplain.objectives.shared.base import (
    Counts,
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
    non_target_loss,
)


class Introspective(Objective):
    """A classifier that distils its own class-wise explanations into itself.

    One forward pass serves the loss and the explanation:

        e_c = class map of class c                          (detached)
        s_c = similarity(e_c, e_y)
        q   = softmax or Zipf target of s over c != y
        L   = CE(p, y) + w T^2 KL(q || p over c != y)       (form "non_true")

    Args:
        model: maps images (B, C, H, W) to logits (B, K). It is not changed: hooks live only while a
            forward pass runs.
        num_classes: K, for the running means of class aggregation; None for what the model says,
            or its last linear layer has.
        **options: fields of `IntrospectiveOptions`.

    Raises:
        InputError: an option is unknown or out of its limits; at the first call, if the model has
            no layer that the kind of map can be read from.

    Example:
        >>> import torch
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
        >>> objective = Introspective(model)
        >>> out = objective(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> out["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {"weight": Range(0.03, 1.0, log=True)}

    def __init__(
        self, model: nn.Module, *, num_classes: int | None = None, **options: object
    ) -> None:
        super().__init__(model)
        self.options = options_from(options)
        self.period = self.options.map_interval
        self.counts = Counts(steps=0)
        self.class_mean: RunningClassMean | None = None
        if self.options.aggregation == "class":
            classes = find_num_classes(model) if num_classes is None else num_classes
            self.class_mean = RunningClassMean(self.options.momentum, classes)
        self._layers = CheckedLayers()

    def replace_model(self, model: nn.Module) -> None:
        """Train another model from now on; its layers are searched for again."""
        super().replace_model(model)
        self._layers = CheckedLayers()

    @classmethod
    def from_context(cls, model: nn.Module, context: ObjectiveContext, **options: Any) -> Self:
        """Build the objective with running means for the run's classes."""
        return cls(model, num_classes=context.num_classes, **options)

    @property
    def steps(self) -> int:
        """Training steps so far, for warm-up, ramp and the steps with maps."""
        return self.counts["steps"]

    @steps.setter
    def steps(self, steps: int) -> None:
        self.counts["steps"] = steps

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Whether steps are the same from now on: warm-up over, and class means, if any, begun."""
        options = self.options
        return (
            (self.class_mean is None or self.class_mean.started)
            and options.map_interval == 1
            and options.control != "permuted"
            and self.steps >= options.warmup_steps + options.ramp_steps
        )

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,); terms cross_entropy and introspection."""
        reads_maps = self.options.control != "uniform"
        if reads_maps:  # also in the warm-up, or a mistake would be told after hours of training
            self._find_layer(x_BCHW)
        if reads_maps and self._explains_now():
            logits_BK, captured = self._explained_forward(x_BCHW, y_B)
        else:
            logits_BK, captured = self._checked(self.model(x_BCHW), y_B), None
        target_BK = None
        if self._has_target():
            target_BK = self._target(logits_BK, captured, y_B, learn=self._learns_now())
        out = self._loss(logits_BK, target_BK, y_B)
        if self._learns_now():
            self.steps += 1
        return out

    def soft_target(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """The target q (B, K) that the model would set itself for these images, now.

        Under a control it is the control's. Neither parameters, buffers, running means, random
        state nor the step count change.

        Example:
            >>> import torch
            >>> from selfexplain.models import build_model
            >>> objective = Introspective(build_model("small_cnn", num_classes=5, in_channels=1))
            >>> q = objective.eval().soft_target(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
            >>> torch.allclose(q.sum(dim=1), torch.ones(2))
            True
        """
        with preserved(self.model, x_BCHW):
            logits_BK, captured = self._explained_forward(x_BCHW, y_B)
            return self._target(logits_BK, captured, y_B, learn=False)

    def similarity(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """The similarities s (B, K) to class y's explanation that `soft_target` is made of, now.

        In the units of the measure; the entry of y itself is not read by the target. Nothing
        changes, as in `soft_target`.

        Example:
            >>> import torch
            >>> from selfexplain.models import build_model
            >>> objective = Introspective(build_model("small_cnn", num_classes=5, in_channels=1))
            >>> objective.eval().similarity(torch.randn(2, 1, 8, 8), torch.tensor([0, 1])).shape
            torch.Size([2, 5])
        """
        with preserved(self.model, x_BCHW):
            logits_BK, captured = self._explained_forward(x_BCHW, y_B)
            return self._aggregate(self._similarity(logits_BK, captured, y_B), y_B).detach()

    def target_of(self, similarity_BK: Tensor, y_B: Tensor) -> Tensor:
        """The soft target q (B, K) that this objective makes of similarities (B, K).

        Example:
            >>> import torch
            >>> from selfexplain.models import build_model
            >>> objective = Introspective(build_model("small_cnn", num_classes=3, in_channels=1))
            >>> objective.target_of(torch.tensor([[1.0, 0.1, 0.4]]), torch.tensor([0]))
            tensor([[0.0000, 0.3333, 0.6667]])
        """
        if self.options.control == "uniform":
            return uniform_target(similarity_BK, y_B)
        target_BK = self._shape(similarity_BK, y_B)
        if self.options.control == "permuted":
            generator = torch.Generator().manual_seed(self.steps)
            target_BK = permuted_target(target_BK, y_B, generator)
        return target_BK

    def skip_warmup(self) -> None:
        """Take the step count past warm-up and ramp."""
        self.steps = max(self.steps, self.options.warmup_steps + self.options.ramp_steps)

    def get_extra_state(self) -> Tensor:
        """What a checkpoint needs besides the weights: the count of training steps, (1,).

        Recorded steps, which there are none of before the warm-up is over, are not counted.
        """
        return self.counts.tensor_N

    def set_extra_state(self, state: Tensor | Mapping[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        self.counts.load(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; version 0.1.0 saved empty class means where there are none."""
        if self.class_mean is None:
            for name in ("mean_KK", "seen_K"):
                state_dict.pop(f"{prefix}class_mean.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _learns_now(self) -> bool:
        """Whether this call is a training step, which moves the running means and the count."""
        return self.training and torch.is_grad_enabled()

    def _strength(self) -> float:
        """Share of weight and mass in force at this step, in [0, 1]."""
        since = self.steps - self.options.warmup_steps
        if since < 0:
            return 0.0
        return min(1.0, (since + 1) / (self.options.ramp_steps + 1))

    def _is_map_step(self) -> bool:
        """Whether explanations are due; always in evaluation, so that a loss does not fluctuate."""
        since = self.steps - self.options.warmup_steps
        return not self._learns_now() or since % self.options.map_interval == 0

    def _explains_now(self) -> bool:
        """Whether this step reads the class maps."""
        return self._strength() > 0 and self._is_map_step()

    def _has_target(self) -> bool:
        """Whether this step has a soft target."""
        return self._strength() > 0 and (self._is_map_step() or self._begun_means() is not None)

    def _begun_means(self) -> RunningClassMean | None:
        """The running class means, if there are any and they have begun."""
        return self.class_mean if self.class_mean is not None and self.class_mean.started else None

    def _explained_forward(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Captured]:
        """One forward pass whose feature map is kept for the explanation.

        A second one, if the first shows that the model's explained layer is another one now.
        """
        kind, name = self.options.kind, self.options.layer
        for _ in range(2):
            layer = self._find_layer(x_BCHW)
            with self._graph_for_maps(), capture(self.model, layer) as captured:
                images = x_BCHW.clone() if x_BCHW.is_inference() else x_BCHW
                logits_BK = self._checked(self.model(images), y_B)
            if self._layers.hold(self.model, x_BCHW, captured, logits_BK, kind, name):
                break
        return logits_BK, captured

    def _find_layer(self, x_BCHW: Tensor) -> ExplainedLayer:
        """The layer that maps are read from; each pass that is explained checks it."""
        return self._layers.find(self.model, x_BCHW, self.options.kind, self.options.layer)

    def _checked(self, logits_BK: object, y_B: Tensor) -> Tensor:
        """The model's logits (B, K), if there are enough classes to teach about."""
        checked_BK = check_logits(logits_BK, y_B)
        if checked_BK.shape[1] < 2:
            raise InputError("the model has one class; pass a model of at least two")
        if checked_BK.shape[1] == 2 and self.options.form == "non_true":
            raise InputError(
                "with two classes there is one non-true class and the form non_true has nothing to "
                "teach; pass form mixed or ce_kl, or another objective"
            )
        return checked_BK

    @contextmanager
    def _graph_for_maps(self) -> Iterator[None]:
        """Maps made of gradients need a graph even where the caller, in validation, wants none."""
        if self.options.kind == "cam":
            yield
            return
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield

    def _target(
        self, logits_BK: Tensor, captured: Captured | None, y_B: Tensor, learn: bool
    ) -> Tensor:
        """The detached soft target q (B, K) of this step; `learn` moves the running means."""
        if self.options.control == "uniform":  # whose target reads no values
            similarity_BK = logits_BK.detach().float()
        elif captured is None:  # between steps with maps: running means alone are learnt from
            assert self.class_mean is not None
            similarity_BK = self.class_mean(y_B)
        else:
            similarity_BK = self._similarity(logits_BK, captured, y_B)
            if learn and self.class_mean is not None:
                self.class_mean.update(similarity_BK, y_B)
            similarity_BK = self._aggregate(similarity_BK, y_B)
        return self.target_of(similarity_BK, y_B)

    def _similarity(self, logits_BK: Tensor, captured: Captured, y_B: Tensor) -> Tensor:
        """Similarity (B, K) in float32: in half precision many classes would tie."""
        with torch.autocast(y_B.device.type, enabled=False):
            if self.options.control == "logits":
                return _logits_in_float(captured, logits_BK)
            if self.options.measure == "attribution":
                sees_image = self.options.control != "weights"
                return _attribution_similarity(captured, y_B, self.options.centre, sees_image)
            return similarity_to_true(
                self._maps_in_float(captured, logits_BK),
                y_B,
                measure=self.options.measure,
                centre=self.options.centre,
            )

    def _maps_in_float(self, captured: Captured, logits_BK: Tensor) -> Tensor:
        if self.options.kind == "cam" and captured.linear is not None:
            return cam(captured.features_BFHW.detach().float(), captured.weight_KF.detach().float())
        with self._graph_for_maps():
            return maps_of_forward(captured, logits_BK, kind=self.options.kind).float()

    def _aggregate(self, similarity_BK: Tensor, y_B: Tensor) -> Tensor:
        """The class's running mean in place of the instance's similarity, once there is one."""
        means = self._begun_means()
        return similarity_BK if means is None else means(y_B)

    def _shape(self, similarity_BK: Tensor, y_B: Tensor) -> Tensor:
        if self.options.shape == "zipf":
            target_BK = zipf_target(similarity_BK, y_B, self.options.exponent)
        else:
            target_BK = softmax_target(similarity_BK, y_B, self.options.tau)
        if self.options.uniform_share == 0:
            return target_BK
        return blend_uniform(target_BK, y_B, self.options.uniform_share)

    def _loss(self, logits_BK: Tensor, target_BK: Tensor | None, y_B: Tensor) -> dict[str, Tensor]:
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        loss, term = cross_entropy, torch.zeros_like(cross_entropy)
        if target_BK is not None and self.options.form == "mixed":
            loss = term = soft_cross_entropy(
                logits_BK, mixed_target(target_BK, y_B, self._mass(logits_BK, y_B))
            )
        elif target_BK is not None:
            term = self._divergence(logits_BK, target_BK, y_B)
            loss = cross_entropy + self.options.weight * self._strength() * term
        return {
            "loss": loss,
            "output": logits_BK if torch.is_grad_enabled() else logits_BK.detach(),
            "cross_entropy": cross_entropy.detach(),
            "introspection": term.detach(),
        }

    def _divergence(self, logits_BK: Tensor, target_BK: Tensor, y_B: Tensor) -> Tensor:
        if self.options.form == "non_true":
            return non_target_loss(logits_BK, target_BK, y_B, self.options.temperature)
        full_BK = mixed_target(target_BK, y_B, self._mass(logits_BK, y_B))
        return distillation_loss(logits_BK, full_BK, self.options.temperature)

    @torch.no_grad()
    def _mass(self, logits_BK: Tensor, y_B: Tensor) -> float | Tensor:
        """Non-true mass m of the target: a number, or one for each image (B,)."""
        mass: float | Tensor = self.options.mass_value
        if self.options.mass == "own":
            p_y_B = logits_BK.float().softmax(dim=1).gather(1, y_B.unsqueeze(1)).squeeze(1)
            mass = (1 - p_y_B).clamp_max(self.options.mass_value)
        return mass * self._strength()


@torch.no_grad()
def _attribution_similarity(
    captured: Captured, y_B: Tensor, centre: bool, sees_image: bool
) -> Tensor:
    """Without the image every feature counts alike: the cosine of the head's weights."""
    features_BFHW = captured.features_BFHW.float()
    if not sees_image:
        features_BFHW = torch.ones_like(features_BFHW)
    return attribution_cosine(features_BFHW, captured.weight_KF.float(), y_B, centre=centre)


@torch.no_grad()
def _logits_in_float(captured: Captured, logits_BK: Tensor) -> Tensor:
    """The logits, computed again in float32 where they are a linear map of pooled features."""
    if captured.linear is None:
        return logits_BK.detach().float()
    bias = None if captured.bias_K is None else captured.bias_K.float()
    pooled_BF = captured.features_BFHW.float().mean(dim=(2, 3))
    return F.linear(pooled_BF, captured.weight_KF.float(), bias)
