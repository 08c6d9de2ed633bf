"""Earlier stages learn, at every place, what the last layer's class activation maps see there.

Source: this project's own, from two known parts: classifiers on earlier stages that the deepest one
teaches (Zhang et al. 2019, `byot`), and class activation maps (Zhou et al. 2016) as the teacher, so
that what is taught has a place.

Shape suffixes: B batch, C channels, F features, H and W space, K classes, N = H W places.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import cam, capture
from selfexplain.explanations.hooks import Captured
from selfexplain.explanations.layout import ExplainedLayer
from selfexplain.objectives.byot import stage_hooks
from selfexplain.objectives.options import DensePlacesControl, DensePlacesOptions
from selfexplain.objectives.shared.base import (
    ObjectiveContext,
    Range,
    Tunable,
    check_logits,
)
from selfexplain.objectives.shared.explaining import ExplainingObjective, StepRandom
from selfexplain.objectives.shared.stages import find_stages


def place_divergence(student_BKHW: Tensor, teacher_BKHW: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over classes, mean over places and B.

    The teacher has no gradient.

    Args:
        student_BKHW: logits at every place.
        teacher_BKHW: the same.
        temperature: T > 0.

    Example:
        >>> z = torch.randn(2, 5, 3, 3)
        >>> float(place_divergence(z, z + 1.0, 2.0)) < 1e-6
        True
    """
    kl_BKHW = F.kl_div(
        F.log_softmax(student_BKHW / temperature, dim=1),
        F.log_softmax(teacher_BKHW.detach() / temperature, dim=1),
        log_target=True,
        reduction="none",
    )
    return temperature**2 * kl_BKHW.sum(dim=1).mean()


def shuffled_places(maps_BKHW: Tensor, generator: torch.Generator) -> Tensor:
    """Maps whose places, with all their classes, are in another order in each image.

    The generator is on the CPU, so that every device draws the same.

    Example:
        >>> maps = torch.arange(4.0).view(1, 1, 2, 2)
        >>> shuffled_places(maps, torch.Generator().manual_seed(0)).flatten().sort().values
        tensor([0., 1., 2., 3.])
    """
    maps_BKN = maps_BKHW.flatten(2)
    keys_BN = torch.rand(len(maps_BKN), maps_BKN.shape[2], generator=generator)
    order_B1N = keys_BN.argsort(dim=1).unsqueeze(1).to(maps_BKN.device)
    return maps_BKN.gather(2, order_B1N.expand_as(maps_BKN)).view_as(maps_BKHW)


class DensePlaces(ExplainingObjective):
    """L = CE(p, y) + w sum_i mean over places of T^2 KL(c^T || h_i^T).

    c is the class activation map of every class at a place of the last layer, with the head's bias,
    so that its mean over the places are the logits; it is detached. h_i are the logits that a
    linear head makes, at the same place, of stage i: of the mean of its features over what the
    place covers. The model is not changed; the heads are learned and saved with the objective, and
    are needed in training alone.

    Args:
        model: maps images to logits (B, K), a linear map of an averaged feature map.
        image_shape: (C, H, W), for the forward pass that finds the stages and their sizes.
        layers: names of modules that return (B, C, H, W); None to take the outputs after which the
            resolution halves, at most the last three.
        weight: w.
        temperature: T.
        control: shuffled teaches each place what is seen at another of the same image.

    Raises:
        InputError: no stages are found, a layer is unknown, or an option is out of range; at the
            first call, if the model has no class activation maps.

    Example:
        >>> from selfexplain.models import build_model
        >>> model = build_model("small_cnn", num_classes=3, in_channels=1)
        >>> objective = DensePlaces(model, image_shape=(1, 8, 8), layers=["block2"])
        >>> objective(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))["loss"].backward()
    """

    tunable: ClassVar[Mapping[str, Tunable]] = {"weight": Range(0.03, 1.0, log=True)}

    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        layers: Sequence[str] | None = None,
        weight: float = DensePlacesOptions.weight,
        temperature: float = DensePlacesOptions.temperature,
        control: DensePlacesControl = DensePlacesOptions.control,
    ) -> None:
        DensePlacesOptions.check(weight=weight, temperature=temperature, control=control)
        super().__init__(model)
        self.weight, self.temperature, self.control = weight, temperature, control
        self.staging = find_stages(model, image_shape, layers)
        like = next(model.parameters(), torch.zeros(()))
        self.heads = nn.ModuleList(
            nn.Conv2d(stage.channels, self.staging.classes, 1) for stage in self.staging.stages
        ).to(like.device, like.dtype)
        self.random = StepRandom() if control == "shuffled" else None

    @classmethod
    def from_context(
        cls,
        model: nn.Module,
        context: ObjectiveContext,
        *,
        layers: str | None = DensePlacesOptions.layers,
        **options: Any,
    ) -> Self:
        """Build it for the run's images; layers are names with a / between."""
        names = None if layers is None else layers.split("/")
        return cls(model, context.image_shape, names, **options)

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Whether nothing is drawn."""
        return self.random is None

    def explained_loss(self, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Loss of images and labels (B,); terms cross_entropy and places, without its weight."""
        logits_BK, captured, stages = self._seen(x_BCHW, y_B)
        teacher_BKHW = _logits_of_places(captured)
        if self.random is not None:
            teacher_BKHW = shuffled_places(teacher_BKHW, self.random.generator("cpu"))
        height, width = teacher_BKHW.shape[2:]
        divergences = []
        for head, stage_BCHW in zip(self.heads, stages, strict=True):
            covered_BCHW = F.adaptive_avg_pool2d(stage_BCHW, (height, width))
            student_BKHW = head(covered_BCHW).to(teacher_BKHW.dtype)
            divergences.append(place_divergence(student_BKHW, teacher_BKHW, self.temperature))
        cross_entropy = F.cross_entropy(logits_BK, y_B)
        places = torch.stack(divergences).sum()
        return {
            "loss": cross_entropy + self.weight * places,
            "output": logits_BK,
            "cross_entropy": cross_entropy.detach(),
            "places": places.detach(),
        }

    def after_step(self) -> None:
        """Go on to the next step's shuffling."""
        if self.random is not None:
            self.random.advance()

    def _seen(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Captured, list[Tensor]]:
        """One forward pass: logits, what was seen at the last layer, and the stages' maps."""
        for _ in range(2):  # again, if the last layer is another one now
            layer = self._last_layer(x_BCHW)
            with (
                capture(self.model, layer) as captured,
                stage_hooks(self.model, self.staging) as staged,
            ):
                logits_BK = check_logits(self.model(x_BCHW), y_B)
            if self.layers.hold(self.model, x_BCHW, captured, logits_BK, "cam", None):
                break
        return logits_BK, captured, staged.maps()

    def _last_layer(self, x_BCHW: Tensor) -> ExplainedLayer:
        try:
            return self.find_layer(x_BCHW, "cam")
        except InputError as error:
            reason = str(error).partition("; pass kind")[0]
            raise InputError(f"{reason}; pass such a model, or objective byot") from error


@torch.no_grad()
def _logits_of_places(captured: Captured) -> Tensor:
    """Class activation maps with the head's bias, (B, K, H, W), in float32 or wider."""
    features_BFHW, weight_KF = captured.features_BFHW, captured.weight_KF
    wide = torch.promote_types(features_BFHW.dtype, torch.float32)
    with torch.autocast(features_BFHW.device.type, enabled=False):
        maps_BKHW = cam(features_BFHW.to(wide), weight_KF.to(wide))
    if captured.bias_K is None:
        return maps_BKHW
    return maps_BKHW + captured.bias_K.to(wide).view(1, -1, 1, 1)
