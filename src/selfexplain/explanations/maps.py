"""Class maps of all classes in one call, and the check that they are read from the right layer.

Shape suffixes: B batch, C channels, F features, K classes, N classes of an image, H W space.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.hooks import Captured, capture, gradients_of_score, preserved
from selfexplain.explanations.layers import (
    TOLERANCES,
    find_explained_layer,
    last_responsive_layer,
    no_pooled_head,
    probe_images,
)
from selfexplain.explanations.layout import (
    POOLED_KINDS,
    ExplainedLayer,
    FeatureLayout,
    TensorSource,
    check_classes,
    check_images,
    check_kind,
    check_output,
    refuse_broken_images,
    refuse_what_is_not_finite,
    to_BFHW,
)


def cam(features_BFHW: Tensor, weight_KF: Tensor) -> Tensor:
    """Class activation maps of all classes: ``M_k(h, w) = sum_f w_kf a_f(h, w)``.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The
    bias of the head is no part of it, so the spatial mean of ``M_k`` is the logit less its bias.

    Args:
        features_BFHW: the feature map that is averaged over space and fed to the linear head.
        weight_KF: the weight of that head; rows of classes that are not wanted may be left out.

    Returns:
        Maps (B, K, H, W), signed, in the units of the logits.

    Example:
        >>> cam(torch.ones(2, 8, 4, 4), torch.ones(10, 8)).shape
        torch.Size([2, 10, 4, 4])
    """
    dtype = torch.promote_types(features_BFHW.dtype, weight_KF.dtype)
    # One matrix product for all classes: 2 to 4 times as fast as einsum at 10 classes, on a par at
    # 100, and unlike a 1x1 convolution it is not rounded to TF32 by default on GPUs.
    maps_BKP = weight_KF.to(dtype) @ features_BFHW.to(dtype).flatten(2)
    return maps_BKP.reshape(*maps_BKP.shape[:2], *features_BFHW.shape[2:])


def grad_cam_of(features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Grad-CAM of one class, without the ReLU: ``sum_f mean_hw(d logit / d a_f) a_f``, (B, H, W).

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017.
    """
    return (gradient_BFHW.mean((2, 3), keepdim=True) * features_BFHW).sum(1)


def feature_x_gradient_of(features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Feature times gradient of one class: ``sum_f a_f d logit / d a_f``; maps (B, H, W)."""
    return (features_BFHW * gradient_BFHW).sum(1)


def gradient_of(_features_BFHW: Tensor, gradient_BFHW: Tensor) -> Tensor:
    """Signed saliency of one class: ``sum_f d logit / d a_f``; maps (B, H, W)."""
    return gradient_BFHW.sum(1)


# Input times gradient is feature times gradient where the features are the images themselves.
OF_GRADIENT: dict[MapKind, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam_of,
    "feature_x_gradient": feature_x_gradient_of,
    "gradient": gradient_of,
    "input_x_gradient": feature_x_gradient_of,
}


def maps_by_gradient(
    logits_BK: Tensor,
    activation: Tensor,
    layout: FeatureLayout,
    *,
    kind: MapKind,
    classes: Sequence[int],
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Maps (B, len(classes), H, W) from gradients of logits with respect to ``activation``.

    One backward pass a class. All classes in one batched pass (``is_grads_batched``) took as long
    on the CPU (mostly 0.84 to 1.15 times, at worst 1.3; 10 and 100 classes), needs the memory of
    all gradients at once, and does not work with every operation, so it is not used.

    Raises:
        InputError: if the logits do not depend on ``activation``.
    """
    features_BFHW = to_BFHW(activation if create_graph else activation.detach(), layout)
    scores_K = logits_BK.sum(0)  # images are independent, but for BatchNorm in training mode
    maps = []
    for i, k in enumerate(classes):
        keep = retain_graph or create_graph or i < len(classes) - 1
        gradient = gradient_of_score(scores_K[k], activation, create_graph, keep)
        maps.append(OF_GRADIENT[kind](features_BFHW, to_BFHW(gradient, layout)))
    return torch.stack(maps, dim=1)


def gradient_of_score(
    score: Tensor, activation: Tensor, create_graph: bool = False, retain_graph: bool = True
) -> Tensor:
    """Gradient of a scalar with respect to ``activation``, in its shape."""
    if not (score.requires_grad and activation.requires_grad):
        raise InputError(
            "the logits carry no gradient to the explained layer; run the forward with gradients "
            "enabled, and call find_explained_layer with the kind of map to be made"
        )
    (gradient,) = gradients_of_score(score, [activation], create_graph, retain_graph)
    if gradient is None:
        raise InputError(
            "the logits do not depend on the explained layer; "
            "pass the name of a layer on the path from the images to the logits"
        )
    return gradient


# Check, on each pass that is explained, that its layer is what it was found to be.


# What float32 products are rounded to where torch.set_float32_matmul_precision allows it.
PRECISIONS = {"highest": 0.0, "high": 1e-3, "medium": 2e-2}

FEW = 256
"""So few numbers may go through dropout without a loss: of one in ten, once in 5e11 passes."""


class CheckedLayers:
    """The explained layers of a model, found once and checked on each pass.

    At a pooled head a pass must satisfy ``logits = W mean + b``, with the weights that it used and
    the feature map that it gave; dropout before the head may drop features. Where it does not, the
    layer is looked for anew, which refuses models that have none. On a CPU that happens in the very
    pass. On a GPU the first pass is waited for; later ones leave their answer on the device, also
    where they are recorded and replayed, and it is read when a later pass ends that runs as it is
    written. Behind dropout, in training, one factor on all features alike passes for dropout's own.

    It is no part of a checkpoint: a layer is found again.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> layers, x = CheckedLayers(), torch.rand(2, 3, 8, 8)
        >>> with capture(model, layers.find(model, x, "cam")) as captured:
        ...     logits = model(x)
        >>> layers.hold(model, x, captured, logits, "cam")
        True
    """

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], ExplainedLayer] = {}
        self._broken: Tensor | None = None
        """On a device: whether a pass since the last reading broke the rule."""
        self._told: Tensor | None = None
        """The same in memory of the host, as it was when the device had got so far."""
        self._noisy = False
        """Whether a pass broke the rule by dropout alone."""

    def find(
        self, model: nn.Module, x_BCHW: Tensor, kind: MapKind, layer: str | None = None
    ) -> ExplainedLayer:
        """The explained layer, looked for at the first call; tokens, for each size of image.

        Raises:
            InputError: see ``find_explained_layer``.
        """
        of_size = (kind, layer, tuple(x_BCHW.shape[2:]))
        for key in ((kind, layer), of_size):
            if key in self._found:
                return self._found[key]
        return self._look(model, x_BCHW, kind, layer)

    def hold(
        self,
        model: nn.Module,
        x_BCHW: Tensor,
        captured: Captured,
        logits_BK: Tensor,
        kind: MapKind,
        layer: str | None = None,
    ) -> bool:
        """Tell whether a pass was explained at the right layer; if not, run it again.

        Args:
            model: that ran.
            x_BCHW: what it was given.
            captured: of the pass, by ``capture`` with the layer of ``find``.
            logits_BK: what it returned.
            kind: that the layer was found for.
            layer: its name, if the layer was named.

        Raises:
            InputError: there is no such layer any more.
        """
        if captured.saw and len(captured.activation) != len(logits_BK):
            raise InputError(
                f"the explained layer {captured.layer.source.name!r} received in its last call "
                f"{len(captured.activation)} of {len(logits_BK)} images; pass the model without "
                "the wrapper that splits the batch"
            )
        if logits_BK.is_meta or (captured.saw and captured.layer.head is None):
            return True
        # A recording holds the rule alone, unless dropout is known of: looking for dropout is most
        # of the check's work on a GPU, which a false alarm, an epoch at most, costs less than.
        capturing = logits_BK.is_cuda and torch.cuda.is_current_stream_capturing()
        dropout = self._noisy or not capturing
        broken = disagreement(captured, logits_BK, strict=True, dropout=dropout)
        if captured.saw and not self._is_told(broken, capturing):
            captured.checked = True
            return True
        found = self._look(model, x_BCHW, kind, layer)
        if found != captured.layer:
            return False
        if not captured.saw:
            raise _left_out(found)
        still = preserved(model, x_BCHW, eval_mode=True)
        with still, torch.no_grad(), capture(model, found) as quiet:
            quiet_BK = model(probe_images(x_BCHW))
        reason = _broken_rule(quiet) if bool(disagreement(quiet, quiet_BK, strict=True)) else None
        # Noise before the head, in training alone, is what maps leave out; nothing else is.
        if reason is None and not _only_noise(model, x_BCHW, captured, logits_BK):
            reason = _in_training_alone(found)
        if reason is None:
            self._noisy = captured.checked = True
            return True
        if kind == "cam":
            raise no_pooled_head(reason)
        self._keep(_by_gradient(model, x_BCHW, found), x_BCHW, kind, layer)
        return False

    def _look(
        self, model: nn.Module, x_BCHW: Tensor, kind: MapKind, layer: str | None
    ) -> ExplainedLayer:
        found = find_explained_layer(model, x_BCHW, kind=kind, layer=layer)
        return self._keep(found, x_BCHW, kind, layer)

    def _keep(
        self, found: ExplainedLayer, x_BCHW: Tensor, kind: MapKind, layer: str | None
    ) -> ExplainedLayer:
        self._found.pop((kind, layer), None)
        sized = found.layout.grid is not None
        self._found[(kind, layer, tuple(x_BCHW.shape[2:])) if sized else (kind, layer)] = found
        return found

    def _is_told(self, broken: Tensor, capturing: bool) -> bool:
        """Take in a pass's answer; tell whether it, or one before it, is known to be bad."""
        if broken.device.type != "cuda":
            return bool(broken)
        if self._broken is None or self._told is None or self._broken.device != broken.device:
            self._broken = torch.zeros_like(broken)
            self._told = torch.zeros((), dtype=torch.bool, pin_memory=True)
            if not capturing:
                return bool(broken)
        self._broken.logical_or_(broken)
        if capturing:
            return False
        known = bool(self._told)
        if known:
            self._broken.zero_()
        self._told.copy_(self._broken, non_blocking=True)
        return known


def check_agreement(captured: Captured, logits_BK: Tensor) -> None:
    """Raise ``InputError`` if the pass does not satisfy ``logits = W mean + b``.

    Nothing is asked while a CUDA graph is recorded, nor twice of one pass.
    """
    if captured.checked or captured.linear is None or logits_BK.is_meta:
        return
    if logits_BK.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    training = captured.model is not None and captured.model.training
    if bool(disagreement(captured, logits_BK, strict=not training)):
        raise no_pooled_head(_broken_rule(captured))
    captured.checked = True


def _broken_rule(captured: Captured) -> str:
    """Say of a pass that its logits are not those of the mean of its feature map."""
    head = captured.layer.head
    name = "" if head is None else f" {head.name!r}"
    if len(captured.head_calls) > 1:
        return f"the head{name} is called {len(captured.head_calls)} times in one forward pass"
    return (
        f"the logits of this forward pass are not what the head{name} returns for the spatial "
        "mean of the current feature map"
    )


def _in_training_alone(layer: ExplainedLayer) -> str:
    """Say of a model that its logits are those of the pooled head in evaluation alone."""
    assert layer.head is not None, "layers without a head are not held to its rule"
    return (
        f"the logits are what the head {layer.head.name!r} returns for the spatial mean of the "
        "feature map in eval mode only, not in training mode"
    )


def _left_out(layer: ExplainedLayer) -> InputError:
    """Make the error for a forward that did not go through the explained layer."""
    return InputError(
        f"this forward pass skipped the explained layer {layer.source.name!r}, which runs in eval "
        "mode; pass the name of a layer that always runs, or a model that always runs this one "
        "(stochastic depth can multiply a branch by zero instead of skipping it)"
    )


def _by_gradient(model: nn.Module, x_BCHW: Tensor, found: ExplainedLayer) -> ExplainedLayer:
    """The pooled feature map without its head; the last map of a module where it is a function's.

    So its gradients are those of the forward as it is.
    """
    if found.source.at == "output":
        return ExplainedLayer(found.source, found.layout)
    name, layout = last_responsive_layer(model, x_BCHW)
    return ExplainedLayer(TensorSource("output", name), layout)


@torch.no_grad()
def _only_noise(model: nn.Module, x_BCHW: Tensor, captured: Captured, logits_BK: Tensor) -> bool:
    """Whether all that a pass breaks its rule by is drawn, and lies before the head.

    Two more passes tell what is drawn: it differs between them.
    """
    with torch.autocast(logits_BK.device.type, enabled=False):
        if not _head_gave(captured, logits_BK):
            return False
    with preserved(model, x_BCHW), capture(model, captured.layer) as again:
        differences = []
        for _ in range(2):
            other_BK = model(x_BCHW.detach().clone())
            if not again.saw or not again.head_calls:
                return True  # which a later pass will tell
            rule = _Rule(again, other_BK)
            x_BF = again.head_calls[-1].input.to(rule.wide)
            if bool(rule.is_given(x_BF, strict=False)):
                return True
            differences.append(x_BF - rule.mean_BF)
    error = (differences[0] - differences[1]).abs().amax()
    return bool(error > rule.tolerance * rule.mean_BF.abs().amax())


def _head_gave(captured: Captured, logits_BK: Tensor) -> bool:
    """Whether the logits are what the head made of what it was given, on average over its calls."""
    if not captured.head_calls:
        return False
    rule = _Rule(captured, logits_BK)
    given = [call.input.to(rule.wide) for call in captured.head_calls]
    width = rule.weight_KF.shape[1]
    if any(x.dim() != 2 or x.shape[1] != width or len(x) != len(logits_BK) for x in given):
        return False
    averaged_BF = torch.stack(given).mean(0)
    return any(not bool(rule.gives_other(x_BF)) for x_BF in (given[-1], averaged_BF))


@torch.no_grad()
def disagreement(
    captured: Captured, logits_BK: Tensor, *, strict: bool, dropout: bool = True
) -> Tensor:
    """Whether a pass breaks ``logits = W mean + b``: a bool of the device, not waited for there.

    The bound is that of rounding: relative to ``|W| |mean| + |b|``. What is not finite is not held
    against the head. Dropout may have zeroed features and scaled up the others, and the logits may
    be the mean of several such calls.

    Args:
        captured: the pass, at a pooled head.
        logits_BK: what it returned.
        strict: let features be scaled only where some were dropped; else also where they are so few
            that dropout may have spared them all.
        dropout: whether dropout before the head excuses a pass.
    """
    if not captured.saw or not captured.head_calls:
        return torch.ones((), dtype=torch.bool, device=logits_BK.device)
    given = [call.input for call in captured.head_calls]
    batch, count = len(logits_BK), captured.layer.layout.channels
    same = all(x.shape == (batch, count) for x in given) and len(captured.activation) == batch
    if not same or captured.weight_KF.shape != (logits_BK.shape[1], count):
        return torch.ones((), dtype=torch.bool, device=logits_BK.device)
    with torch.autocast(logits_BK.device.type, enabled=False):
        rule = _Rule(captured, logits_BK)
        if not logits_BK.is_cuda and rule.surely_gives(rule.mean_BF):
            return torch.zeros((), dtype=torch.bool)
        broken = rule.gives_other(rule.mean_BF)
        if not dropout or not (broken.is_cuda or bool(broken)):
            return broken
        fits = torch.stack([rule.is_given(x.to(rule.wide), strict) for x in given])
        last = given[-1].to(rule.wide)
        excused = fits[-1] & ~rule.gives_other(last)
        if len(given) > 1:
            mean_BF = torch.stack([x.to(rule.wide) for x in given]).mean(0)
            excused |= fits.all() & ~rule.gives_other(mean_BF)
        return broken & ~excused


class _Rule:
    """``logits = W x + b`` of one pass, for several x."""

    def __init__(self, captured: Captured, logits_BK: Tensor) -> None:
        call = captured.head_calls[-1]
        of = (captured.activation, logits_BK, call.input, call.output, call.weight_KF)
        self.tolerance = _tolerance([t.dtype for t in of], logits_BK.device.type)
        widest = torch.promote_types(call.weight_KF.dtype, logits_BK.dtype)
        self.wide = torch.promote_types(widest, torch.float32)
        self.mean_BF = _mean(captured.features_BFHW.detach(), self.wide)
        self.weight_KF = call.weight_KF.to(self.wide)
        self.bias_K = None if call.bias_K is None else call.bias_K.to(self.wide)
        self.logits_BK = logits_BK.detach().to(self.wide)

    def surely_gives(self, x_BF: Tensor) -> bool:
        """Whether the logits are W x + b by a stricter bound, in fewer operations but one wait."""
        error_BK = F.linear(x_BF, self.weight_KF, self.bias_K).sub_(self.logits_BK)
        return _highest(error_BK) <= self.tolerance * _highest(self.logits_BK)

    def gives_other(self, x_BF: Tensor) -> Tensor:
        """Whether the logits differ from W x + b by more than rounding."""
        error = (F.linear(x_BF, self.weight_KF, self.bias_K) - self.logits_BK).abs().amax()
        bias_K = None if self.bias_K is None else self.bias_K.abs()
        size = F.linear(x_BF.abs(), self.weight_KF.abs(), bias_K).amax()
        return error > self.tolerance * size

    def is_given(self, x_BF: Tensor, strict: bool) -> Tensor:
        """Whether x is the mean, but for features that dropout took."""
        highest = self.mean_BF.abs().amax()
        kept_BF = x_BF != 0
        own_BF = self.mean_BF * kept_BF
        gain = (x_BF * own_BF).sum() / own_BF.square().sum()
        dropped = (~kept_BF & (self.mean_BF.abs() > self.tolerance * highest)).any()
        scaled = gain > 1 + self.tolerance
        spared = not strict and x_BF.numel() < FEW
        gain = torch.where(scaled if spared else dropped & scaled, gain, 1.0)
        error = ((x_BF - gain * own_BF) * kept_BF).abs().amax()
        return (error <= self.tolerance * gain * highest) & (~dropped | scaled)


def _mean(features_BFHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean over space; as a product where a mean over so few neighbours takes up to five times."""
    plain = features_BFHW.is_contiguous() and features_BFHW.dtype == dtype
    if features_BFHW.is_cuda or not plain:
        return features_BFHW.mean((2, 3), dtype=dtype)
    positions = features_BFHW.shape[2:].numel()
    return features_BFHW.flatten(2) @ features_BFHW.new_full((positions,), 1 / positions)


def _highest(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, torch.inf))


def _tolerance(dtypes: list[torch.dtype], device: str) -> float:
    """Of the coarsest type that numbers may have been rounded to on their way."""
    if torch.is_autocast_enabled(device):
        dtypes = [*dtypes, torch.get_autocast_dtype(device)]
    coarsest = max(TOLERANCES.get(dtype, 2e-2) for dtype in dtypes)
    if torch.float64 in dtypes and coarsest == TOLERANCES[torch.float64]:
        return coarsest
    return max(coarsest, PRECISIONS[torch.get_float32_matmul_precision()])


# All classes of a batch.


_found: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], CheckedLayers]] = WeakKeyDictionary()


def class_maps(
    model: nn.Module,
    x_BCHW: Tensor,
    *,
    kind: MapKind = "cam",
    layer: str | None = None,
    classes: Sequence[int] | None = None,
    create_graph: bool = False,
) -> Tensor:
    """What the model holds for and against every class, and where: signed maps.

    The model runs in the modes it is in, and is left as found: modes, buffers, gradients, hooks
    and the global random state. In training mode BatchNorm couples the images of a batch: gradients
    are then those of the sum of a class's logits over the batch. Dropout between the pool and the
    head is left out of ``cam`` and, at the pooled layer, of ``grad_cam`` and
    ``feature_x_gradient``: they are the mean over its masks.

    Kinds, for a layer's features a_f and the logits of class k:

    - ``cam`` (Zhou et al., 2016): sum_f w_kf a_f, for a linear head on averaged features.
    - ``grad_cam`` (Selvaraju et al., 2017, no ReLU): sum_f mean_hw(d logit_k / d a_f) a_f.
    - ``feature_x_gradient``: sum_f a_f d logit_k / d a_f.
    - ``gradient``: sum_f d logit_k / d a_f; of the images by default.
    - ``input_x_gradient``: sum_c x_c d logit_k / d x_c.

    At the layer that is averaged into a linear head the gradient is w_k / (H W), so the first three
    need no backward pass; otherwise there is one for each class.

    Args:
        model: maps images to logits (B, K).
        x_BCHW: images.
        kind: one of ``KINDS``.
        layer: name of the module whose output (features first, or tokens) is explained; see
            ``find_explained_layer`` for the default.
        classes: indices of the classes; None for all.
        create_graph: make the maps differentiable in the weights and the images.

    Returns:
        Maps (B, K, H, W) at the layer's resolution, one for each class asked for.

    Raises:
        InputError: if an argument, or what the model returns, cannot be used.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> class_maps(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5, 6, 6])
        >>> class_maps(model, torch.rand(2, 3, 8, 8), kind="gradient", classes=[3]).shape
        torch.Size([2, 1, 8, 8])
    """
    with torch.inference_mode(mode=False):
        check_images(x_BCHW)
        # Maps that are recorded as a CUDA graph cannot be looked at.
        looks = not (x_BCHW.is_cuda and torch.cuda.is_current_stream_capturing())
        if looks:
            refuse_broken_images(x_BCHW)
        # A copy, as models may start in place.
        x_BCHW = (x_BCHW if create_graph else x_BCHW.detach()).clone()
        layers = _layers(model, x_BCHW, kind, layer)
        with preserved(model, x_BCHW):
            for _ in range(2):  # again, if the layer is another one now
                explained = layers.find(model, x_BCHW, kind, layer)
                needs_graph = create_graph or explained.head is None
                with torch.set_grad_enabled(needs_graph), capture(model, explained) as captured:
                    logits_BK = check_output(model(x_BCHW), len(x_BCHW))
                if layers.hold(model, x_BCHW, captured, logits_BK, kind, layer):
                    break
            with torch.set_grad_enabled(needs_graph):
                maps_BKHW = maps_of_forward(
                    captured,
                    logits_BK,
                    kind=kind,
                    classes=classes,
                    create_graph=create_graph,
                    retain_graph=create_graph,
                )
            if looks and not bool(maps_BKHW.isfinite().all()):
                refuse_what_is_not_finite(model, x_BCHW, logits_BK)
            return maps_BKHW


def maps_of_forward(
    captured: Captured,
    logits_BK: Tensor,
    *,
    kind: MapKind = "cam",
    classes: Sequence[int] | None = None,
    create_graph: bool = False,
    retain_graph: bool = True,
) -> Tensor:
    """Class maps of a forward that ``capture`` watched, from that forward's own graph.

    Args:
        captured: from ``capture``, with a layer that was found for this kind.
        logits_BK: what that forward returned.
        kind: one of ``KINDS``.
        classes: indices of the classes; None for all.
        create_graph: make the maps differentiable.
        retain_graph: leave the forward's graph usable, for the backward pass of a loss.

    Returns:
        Maps (B, K, H, W); see ``class_maps``.

    Raises:
        InputError: if the kind does not go with the layer, or an argument cannot be used.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> x = torch.rand(2, 3, 8, 8)
        >>> from selfexplain.explanations import find_explained_layer
        >>> with capture(model, find_explained_layer(model, x)) as captured:
        ...     logits = model(x)
        >>> maps_of_forward(captured, logits).shape
        torch.Size([2, 5, 6, 6])
    """
    kind = check_kind(kind)
    logits_BK = check_output(logits_BK, len(captured.activation))
    chosen = check_classes(classes, logits_BK.shape[1])
    if captured.linear is not None and kind in POOLED_KINDS:
        check_agreement(captured, logits_BK)
        with torch.set_grad_enabled(create_graph):
            weight_KF = captured.weight_KF
            return closed_form(captured, weight_KF if classes is None else weight_KF[chosen], kind)
    if kind == "cam":
        raise no_pooled_head("this layer was found for another kind")
    with captured.buffers_lent():
        return maps_by_gradient(
            captured.differentiable(logits_BK),
            captured.activation,
            captured.layer.layout,
            kind=kind,
            classes=chosen,
            create_graph=create_graph,
            retain_graph=retain_graph,
        )


def closed_form(captured: Captured, weight_KF: Tensor, kind: MapKind) -> Tensor:
    """Maps at the pooled layer; the other two kinds are CAM over the number of positions.

    The weight's rows are those of the classes: (K, F), or (B, K, F) for each image its own.
    """
    captured.check_graph()
    maps_BKHW = cam(captured.features_BFHW, weight_KF)
    return maps_BKHW if kind == "cam" else maps_BKHW / maps_BKHW.shape[2:].numel()


def _layers(model: nn.Module, x_BCHW: Tensor, kind: MapKind, layer: str | None) -> CheckedLayers:
    """The layers that were found for a model as it is built now, and images of this shape."""
    structure = tuple((name, type(module)) for name, module in model.named_modules())
    key = (kind, layer, x_BCHW.shape[1:], x_BCHW.dtype, structure)
    found = _found.setdefault(model, {})
    return found.setdefault(key, CheckedLayers())
