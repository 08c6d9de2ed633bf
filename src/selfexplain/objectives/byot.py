"""Be your own teacher (Zhang et al. 2019): shallow classifiers taught by the deepest one.

Shape suffixes: B batch, C channels, F features, H and W space, K classes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.hooks import ForwardHook, Hook, forward_hooks
from selfexplain.objectives.options import BYOTOptions
from selfexplain.objectives.shared.base import (
    Objective,
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)
from selfexplain.objectives.shared.stages import Stage, Staging, find_stages

# Read the stages of a model while it runs.


class CapturedStages:
    """What `stage_hooks` saw in the last forward pass."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.outputs: dict[str, list[Tensor]] = {stage.name: [] for stage in staging.stages}
        self.given: list[Tensor] = []

    def maps(self) -> list[Tensor]:
        """The feature maps of the stages, (B, C, H, W) each."""
        try:
            return [self.outputs[stage.name][stage.call] for stage in self.staging.stages]
        except IndexError as error:
            raise InputError(
                "a layer ran less often than when its stage was found; pass layers that each "
                "forward pass runs"
            ) from error

    def features(self) -> Tensor:
        """What the linear head was given, (B, F)."""
        return self.given[-1]


@contextmanager
def stage_hooks(model: nn.Module, staging: Staging) -> Iterator[CapturedStages]:
    """Keep the live feature maps of a forward pass in this block; hooks are gone after it."""
    captured = CapturedStages(staging)

    def keep(outputs: list[Tensor]) -> Hook:
        return lambda _module, _inputs, output: outputs.append(output)

    def keep_given(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        captured.given.append(inputs[0])

    hooks = [
        ForwardHook((name, "output"), keep(outputs)) for name, outputs in captured.outputs.items()
    ]
    hooks.append(ForwardHook((staging.head, "input"), keep_given))
    with forward_hooks(model, hooks):
        yield captured


# A classifier on a stage in the middle of a network.


class ShallowClassifier(nn.Module):
    """A bottleneck from a stage to the deepest features, and a linear layer on them.

    1x1 convolution to a quarter of the features, 3x3 convolutions of stride 2 down to the deepest
    resolution, 1x1 convolution to the deepest features (each with BatchNorm and ReLU), mean over
    space, linear layer.
    """

    def __init__(self, stage: Stage, staging: Staging) -> None:
        super().__init__()
        width = max(staging.features // 4, 1)
        halvings = max(round(math.log2(stage.side / staging.side)), 0)
        self.bottleneck = nn.Sequential(
            _convolution(stage.channels, width, kernel=1),
            *(_convolution(width, width, kernel=3, stride=2) for _ in range(halvings)),
            _convolution(width, staging.features, kernel=1),
        )
        self.linear = nn.Linear(staging.features, staging.classes)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, F) of a stage's feature map."""
        features_BF = self.bottleneck(map_BCHW).mean(dim=(2, 3))
        return self.linear(features_BF), features_BF


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def distillation(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over B, teacher detached."""
    divergence = F.kl_div(
        F.log_softmax(student_BK / temperature, dim=1),
        F.log_softmax(teacher_BK.detach() / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return temperature**2 * divergence


def hint(student_BF: Tensor, teacher_BF: Tensor) -> Tensor:
    """Squared distance of two feature vectors, mean over the batch, teacher detached."""
    return F.mse_loss(student_BF, teacher_BF.detach(), reduction="sum") / len(student_BF)


class BYOT(Objective):
    """Classifiers on the stages of a model learn from the labels and from the model's own end.

        L = CE(p, y) + sum_i [(1 - a) CE(p_i, y) + a T^2 KL(p^T || p_i^T) + w |f_i - f|^2]

    with p_i and f_i the predictions and features of the shallow classifier on stage i, p and f
    those of the model, which teach and are detached. The model is not changed: its feature maps are
    read by hooks that live while a forward pass runs. The classifiers are learned and saved with
    the objective, and are needed in training alone.

    Args:
        model: maps images to logits, by an `nn.Linear` at its end.
        image_shape: (C, H, W), for the forward pass that finds the stages and their sizes.
        layers: names of modules that return (B, C, H, W); None to take the outputs after which the
            resolution halves, at most the last three.
        alpha: a in [0, 1]. Like those of T and w its default is that of public code, not checked
            against the paper (docs/methods/byot.md).
        temperature: T.
        hint_weight: w.

    Raises:
        InputError: no stages are found, a layer is unknown, or an option is out of range.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> objective = BYOT(model, image_shape=(1, 8, 8), layers=["block2"])
        >>> objective(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))["loss"].backward()
    """

    takes_soft_labels = True
    capturable = True
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "alpha": Range(0.05, 0.5, log=True),
        "temperature": Range(1.0, 5.0),
    }

    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        layers: Sequence[str] | None = None,
        alpha: float = BYOTOptions.alpha,
        temperature: float = BYOTOptions.temperature,
        hint_weight: float = BYOTOptions.hint_weight,
    ) -> None:
        BYOTOptions.check(alpha=alpha, temperature=temperature, hint_weight=hint_weight)
        super().__init__(model)
        self.alpha = alpha
        self.temperature = temperature
        self.hint_weight = hint_weight
        self.staging = find_stages(model, image_shape, layers)
        like = next(model.parameters(), torch.zeros(()))
        self.classifiers = nn.ModuleList(
            ShallowClassifier(stage, self.staging) for stage in self.staging.stages
        ).to(like.device, like.dtype)

    @classmethod
    def from_context(
        cls,
        model: nn.Module,
        context: ObjectiveContext,
        *,
        layers: str | None = BYOTOptions.layers,
        **options: Any,
    ) -> Self:
        """Build it for the run's images; layers are names with a / between."""
        names = None if layers is None else layers.split("/")
        return cls(model, context.image_shape, names, **options)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images (B, C, H, W) and labels (B,) or (B, K).

        Terms: cross_entropy of the model; shallow, distillation and hint: sums over the shallow
        classifiers of their cross-entropy, divergence and squared distance, without weights.
        """
        with stage_hooks(self.model, self.staging) as captured:
            logits_BK = check_logits(self.model(x_BCHW), y_B, soft=True)
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        shallow, taught, hinted = self._shallow_terms(
            captured.maps(), logits_BK, captured.features(), y_B
        )
        loss = cross_entropy + (1 - self.alpha) * shallow
        return {
            "loss": loss + self.alpha * taught + self.hint_weight * hinted,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "shallow": shallow.detach(),
            "distillation": taught.detach(),
            "hint": hinted.detach(),
        }

    def _shallow_terms(
        self, maps: list[Tensor], logits_BK: Tensor, features_BF: Tensor, y_B: Tensor
    ) -> Tensor:
        """Sums over the shallow classifiers of cross-entropy, divergence and distance: (3,)."""
        terms = []
        for classifier, map_BCHW in zip(self.classifiers, maps, strict=True):
            shallow_BK, shallow_BF = classifier(map_BCHW)
            terms.append(
                torch.stack(
                    [
                        F.cross_entropy(shallow_BK, y_B),
                        distillation(shallow_BK, logits_BK, self.temperature),
                        hint(shallow_BF, features_BF),
                    ]
                )
            )
        return torch.stack(terms).sum(dim=0)
