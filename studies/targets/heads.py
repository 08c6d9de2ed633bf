"""Linear heads on frozen features, many at once: a laboratory in which a run takes a second.

R heads are trained side by side (the seeds of one setting, or settings of one seed), each on its
own draw of training images, by SGD with momentum 0.9, a cosine schedule and batches of 64. The
gradient is written out (`forms.gradient_of_logits`); tests hold it to autograd and to the
library's own objectives.

Shape suffixes: R heads, N training images, B batch, C features, P places, K classes.
"""

from dataclasses import dataclass

import torch
from studies.targets.forms import (
    SIMILARITIES,
    Form,
    Knobs,
    gradient_of_logits,
    of_images,
    permuted,
)
from torch import Tensor

from selfexplain.introspection import similarity_to_true
from selfexplain.introspection.own_mass import standardized_similarity
from selfexplain.introspection.target import softmax_target, zipf_target

BATCH = 64
MOMENTUM = 0.9
AVERAGE = 0.99
"""Share of the running average of the weights that a step keeps."""
LEARNED_RATE = 0.05
"""Step size of the two weights of the spread `learned`."""


@dataclass(kw_only=True)
class TrainingSets:
    """What R heads learn from: pooled features, and what explanations need."""

    x_RNC: Tensor
    y_RN: Tensor
    energy_RNC: Tensor
    """Sum over places of the squared feature map (`introspection.attribution_cosine`)."""
    mirrored_RNC: Tensor
    maps_MCP: Tensor
    """Feature maps of the pool, in half precision."""
    index_RN: Tensor
    """Each image's place in `maps_MCP`."""


class Heads:
    """R linear heads and what their targets remember.

    Args:
        form: how the target is made.
        knobs: the form's setting.
        num_classes: K.
        num_features: C.
        num_images: N.
        seeds: of the heads' first weights, one each.
    """

    def __init__(
        self,
        form: Form,
        knobs: Knobs,
        *,
        num_classes: int,
        num_features: int,
        num_images: int,
        seeds: list[int],
    ) -> None:
        self.form, self.knobs = form, {"alpha": 0.8, "kappa": 1.0, "cap": 1.0, **knobs}
        bound = num_features**-0.5
        self.weight_RKC = torch.stack(
            [
                torch.empty(num_classes, num_features).uniform_(
                    -bound, bound, generator=torch.Generator().manual_seed(seed)
                )
                for seed in seeds
            ]
        )
        self.bias_RK = torch.zeros(len(seeds), num_classes)
        self.velocity = torch.zeros_like(self.weight_RKC), torch.zeros_like(self.bias_RK)
        self.average = self.weight_RKC.clone(), self.bias_RK.clone()
        heads = len(seeds)
        self.past_RNK = torch.zeros(heads, num_images, num_classes)
        self.seen_RN = torch.zeros(heads, num_images, dtype=torch.bool)
        self.table_RKK = torch.zeros(heads, num_classes, num_classes)
        self.sums_RKK = torch.zeros(heads, num_classes, num_classes)
        self.learned_R2 = torch.zeros(heads, 2)
        self.generator = torch.Generator().manual_seed(1_000 + seeds[0])

    def step(
        self, sets: TrainingSets, places_RB: Tensor, *, share: float, lr: float, decay: float
    ) -> Tensor:
        """One step of every head on its own batch; the logits (R, B, K) before it."""
        rows_R1 = torch.arange(len(places_RB)).unsqueeze(1)
        x_RBC, y_RB = sets.x_RNC[rows_R1, places_RB], sets.y_RN[rows_R1, places_RB]
        z_RBK = torch.baddbmm(self.bias_RK.unsqueeze(1), x_RBC, self.weight_RKC.mT)
        is_true_RBK = torch.zeros_like(z_RBK, dtype=torch.bool).scatter_(2, y_RB.unsqueeze(2), True)
        mass_RB = self._mass(sets, places_RB, y_RB, share)
        q_RBK = self._spread(sets, places_RB, y_RB, z_RBK, is_true_RBK)
        gradient_RBK = gradient_of_logits(z_RBK, y_RB, mass_RB, q_RBK, self.form.loss)
        gradient_RBK = gradient_RBK / z_RBK.shape[1]
        self._descend(gradient_RBK.mT @ x_RBC, gradient_RBK.sum(1), lr=lr, decay=decay)
        p_RBK = z_RBK.softmax(-1)
        self.past_RNK[rows_R1, places_RB] = p_RBK
        self.seen_RN[rows_R1, places_RB] = True
        if self.form.spread == "class_predictions":  # of images that are right (Zhang et al. 2021)
            right_RB1 = (z_RBK.argmax(2) == y_RB).unsqueeze(2)
            self.sums_RKK += is_true_RBK.to(p_RBK).mT @ (p_RBK * right_RB1)
        return z_RBK

    def end_epoch(self) -> None:
        """Take the table of the epoch's predictions."""
        if self.form.spread == "class_predictions":
            sums_RK1 = self.sums_RKK.sum(2, keepdim=True)
            even = 1 / self.sums_RKK.shape[2]
            self.table_RKK = torch.where(sums_RK1 > 0, self.sums_RKK / sums_RK1, even)
            self.sums_RKK = torch.zeros_like(self.sums_RKK)

    def logits(self, x_MC: Tensor) -> Tensor:
        """Of images outside the training set, (R, M, K)."""
        return torch.einsum("mc,rkc->rmk", x_MC, self.weight_RKC) + self.bias_RK.unsqueeze(1)

    def _descend(self, weight: Tensor, bias: Tensor, *, lr: float, decay: float) -> None:
        for value, gradient, velocity, average in zip(
            (self.weight_RKC, self.bias_RK), (weight, bias), self.velocity, self.average,
            strict=True,
        ):  # fmt: skip
            velocity.mul_(MOMENTUM).add_(gradient + decay * value)
            value.sub_(lr * velocity)
            average.lerp_(value, 1 - AVERAGE)

    def _mass(self, sets: TrainingSets, places_RB: Tensor, y_RB: Tensor, share: float) -> Tensor:
        rows_R1 = torch.arange(len(places_RB)).unsqueeze(1)
        if self.form.mass == "none":
            return torch.zeros(places_RB.shape)
        if self.form.mass == "fixed":
            return torch.full(places_RB.shape, self.knobs["mass"])
        if self.form.mass == "own":
            p_RBK = self.past_RNK[rows_R1, places_RB]
            seen_RB = self.seen_RN[rows_R1, places_RB]
        else:
            weight_RKC, bias_RK = self.average
            x_RBC = sets.mirrored_RNC[rows_R1, places_RB]
            p_RBK = torch.baddbmm(bias_RK.unsqueeze(1), x_RBC, weight_RKC.mT).softmax(-1)
            seen_RB = self.seen_RN[rows_R1, places_RB]
        doubt_RB = (1 - p_RBK.gather(2, y_RB.unsqueeze(2)).squeeze(2)) * seen_RB
        return (self.knobs["alpha"] * share * doubt_RB).clamp_max(self.knobs["cap"])

    def _spread(
        self,
        sets: TrainingSets,
        places_RB: Tensor,
        y_RB: Tensor,
        z_RBK: Tensor,
        is_true_RBK: Tensor,
    ) -> Tensor:
        spread = self.form.spread
        if self.form.mass == "none" or spread == "even":
            even_RBK = (~is_true_RBK).to(z_RBK)
            return even_RBK / (z_RBK.shape[2] - 1)
        past_RBK = self._past(places_RB, is_true_RBK)
        if spread == "past":
            return past_RBK
        if spread == "class_predictions":
            return self._class_predictions(y_RB, is_true_RBK)
        rho = self.knobs.get("rho", 0.0)
        if spread == "flattened":
            return of_images(softmax_target, (1 - rho) * past_RBK.clamp_min(1e-12).log(), y_RB)
        s_RBK = self.similarity(sets, places_RB, y_RB, z_RBK, _measure(spread))
        if spread == "class_attribution":
            s_RBK = self._class_mean(s_RBK, y_RB, is_true_RBK)
        z_score_RBK = of_images(standardized_similarity, s_RBK, y_RB)
        if spread == "learned":
            named_RB = z_RBK.argmax(2)
            asked_RBK = self.similarity(sets, places_RB, named_RB, z_RBK, "attribution")
            self._learn(asked_RBK, named_RB, z_RBK, y_RB)
            own_RBK2 = torch.stack(
                [of_images(standardized_similarity, z_RBK, y_RB), z_score_RBK], dim=3
            )
            terms_RBK = (own_RBK2 * self.learned_R2[:, None, None]).sum(3)
            return of_images(softmax_target, terms_RBK, y_RB)
        if self.form.zipf:
            q_RBK = of_images(zipf_target, s_RBK, y_RB)
        else:
            q_RBK = of_images(softmax_target, self.knobs["kappa"] * z_score_RBK, y_RB)
        if self.form.permuted:
            q_RBK = permuted(q_RBK, y_RB, self.generator)
        if spread == "geometric":
            logs_RBK = (1 - rho) * past_RBK.clamp_min(1e-12).log() + rho * q_RBK.clamp_min(
                1e-12
            ).log()
            return of_images(softmax_target, logs_RBK, y_RB)
        return q_RBK

    def similarity(
        self, sets: TrainingSets, places_RB: Tensor, y_RB: Tensor, z_RBK: Tensor, measure: str
    ) -> Tensor:
        """How much each class's explanation resembles the true class's, (R, B, K)."""
        if measure == "logits":
            return z_RBK
        rows_R1 = torch.arange(len(places_RB)).unsqueeze(1)
        weight_RKC = self.weight_RKC
        if measure == "weights":
            unit_RKC = torch.nn.functional.normalize(weight_RKC, dim=2)
            return unit_RKC[rows_R1, y_RB] @ unit_RKC.mT
        if measure == "attribution":
            energy_RBC = sets.energy_RNC[rows_R1, places_RB]
            true_RBC = weight_RKC[rows_R1, y_RB]
            products_RBK = (energy_RBC * true_RBC) @ weight_RKC.mT
            norms_RBK = (energy_RBC @ weight_RKC.square().mT).sqrt()
            norm_true_RB1 = norms_RBK.gather(2, y_RB.unsqueeze(2))
            return products_RBK / (norms_RBK * norm_true_RB1).clamp_min(1e-12)
        maps_RBCP = sets.maps_MCP[sets.index_RN[rows_R1, places_RB]].float()
        cams_RBKP = torch.einsum("rkc,rbcp->rbkp", weight_RKC, maps_RBCP)
        s_MK = similarity_to_true(
            cams_RBKP.flatten(0, 1).unsqueeze(2),
            y_RB.flatten(),
            measure=measure.removeprefix("cam_"),  # type: ignore[arg-type]
        )
        return s_MK.unflatten(0, y_RB.shape)

    def _past(self, places_RB: Tensor, is_true_RBK: Tensor) -> Tensor:
        """The last epoch's prediction over the non-true classes; even where there is none."""
        rows_R1 = torch.arange(len(places_RB)).unsqueeze(1)
        p_RBK = (self.past_RNK[rows_R1, places_RB] + 1e-12).masked_fill(is_true_RBK, 0)
        return p_RBK / p_RBK.sum(2, keepdim=True)

    def _class_predictions(self, y_RB: Tensor, is_true_RBK: Tensor) -> Tensor:
        """Rows of the table, as they are but without the true class; even in the first epoch."""
        rows_R1 = torch.arange(len(y_RB)).unsqueeze(1)
        q_RBK = (self.table_RKK[rows_R1, y_RB] + 1e-6).masked_fill(is_true_RBK, 0)
        return q_RBK / q_RBK.sum(2, keepdim=True)

    def _class_mean(self, s_RBK: Tensor, y_RB: Tensor, is_true_RBK: Tensor) -> Tensor:
        """Rows of a running mean over each class's images."""
        rows_R1 = torch.arange(len(y_RB)).unsqueeze(1)
        onehot_RBK = is_true_RBK.to(s_RBK)
        count_RK1 = onehot_RBK.sum(1).unsqueeze(2)
        batch_RKK = (onehot_RBK.mT @ s_RBK) / count_RK1.clamp_min(1)
        is_new_RK1 = self.sums_RKK.abs().sum(2, keepdim=True) == 0
        kept = torch.where(is_new_RK1, 0.0, 0.9)
        moved_RKK = kept * self.sums_RKK + (1 - kept) * batch_RKK
        self.sums_RKK = torch.where(count_RK1 > 0, moved_RKK, self.sums_RKK)
        return self.sums_RKK[rows_R1, y_RB]

    def _learn(self, asked_RBK: Tensor, named_RB: Tensor, z_RBK: Tensor, y_RB: Tensor) -> None:
        """Climb the likelihood of wrong images' labels under softmax(a z + k s), by one step.

        An image that a head gets wrong shows which class it was taken for. Seen from that class the
        label is one of the others: how likely would the target have made it? No image that is held
        out is needed.

        Args:
            asked_RBK: similarity to the class that each image was taken for.
            named_RB: that class.
            z_RBK: logits.
            y_RB: labels.
        """
        terms_RBK2 = torch.stack(
            [
                of_images(standardized_similarity, z_RBK, named_RB),
                of_images(standardized_similarity, asked_RBK, named_RB),
            ],
            dim=3,
        )
        p_RBK = of_images(
            softmax_target, (terms_RBK2 * self.learned_R2[:, None, None]).sum(3), named_RB
        )
        true_RB12 = terms_RBK2.gather(2, y_RB[..., None, None].expand(-1, -1, 1, 2))
        slope_RB2 = true_RB12.squeeze(2) - (p_RBK.unsqueeze(3) * terms_RBK2).sum(2)
        wrong_RB1 = (named_RB != y_RB).unsqueeze(2).to(slope_RB2)
        self.learned_R2 += LEARNED_RATE * (slope_RB2 * wrong_RB1).mean(1)


def _measure(spread: str) -> str:
    return spread if spread in SIMILARITIES else "attribution"


def train_heads(
    form: Form,
    knobs: Knobs,
    sets: TrainingSets,
    *,
    num_classes: int,
    epochs: int,
    lr: float,
    decay: float,
    seeds: list[int],
) -> Heads:
    """Train R heads, one on each draw of images, and return them."""
    _, images, features = sets.x_RNC.shape
    state = Heads(
        form, knobs, num_classes=num_classes, num_features=features, num_images=images, seeds=seeds
    )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    steps = images // BATCH
    for epoch in range(epochs):
        order_RN = torch.stack([torch.randperm(images, generator=g) for g in generators])
        for step in range(steps):
            done = (epoch * steps + step) / (epochs * steps)
            state.step(
                sets,
                order_RN[:, step * BATCH : (step + 1) * BATCH],
                share=(epoch + 1) / epochs if epoch else 0.0,
                lr=lr * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi)))),
                decay=decay,
            )
        state.end_epoch()
    return state
