"""Check, on each pass that is explained, that its layer is what it was found to be.

Shape suffixes: B batch, C channels, F features, H and W space, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.capture import Captured, capture, probe_images
from selfexplain.explanations.hooks import preserved
from selfexplain.explanations.layers import (
    TOLERANCES,
    find_explained_layer,
    last_responsive_layer,
    no_pooled_head,
)
from selfexplain.explanations.layout import ExplainedLayer, TensorSource

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
                f"the explained layer {captured.layer.source.name!r} was last given "
                f"{len(captured.activation)} of {len(logits_BK)} images; pass the model without "
                "the wrapper that splits the batch"
            )
        if logits_BK.is_meta or (captured.saw and captured.layer.head is None):
            return True
        # A recording holds the rule alone, unless dropout is known of: looking for dropout is most
        # of the check's work on a GPU, which a false alarm, an epoch at most, costs less than.
        recording = logits_BK.is_cuda and torch.cuda.is_current_stream_capturing()
        dropout = self._noisy or not recording
        broken = disagreement(captured, logits_BK, strict=True, dropout=dropout)
        if captured.saw and not self._is_told(broken, recording):
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

    def _is_told(self, broken: Tensor, recording: bool) -> bool:
        """Take in a pass's answer; tell whether it, or one before it, is known to be bad."""
        if broken.device.type != "cuda":
            return bool(broken)
        if self._broken is None or self._told is None or self._broken.device != broken.device:
            self._broken = torch.zeros_like(broken)
            self._told = torch.zeros((), dtype=torch.bool, pin_memory=True)
            if not recording:
                return bool(broken)
        self._broken.logical_or_(broken)
        if recording:
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
        return f"the head{name} is called {len(captured.head_calls)} times in a forward"
    return (
        f"the logits of this forward are not those that the head{name} gives the spatial mean "
        "of the feature map as it is now"
    )


def _in_training_alone(layer: ExplainedLayer) -> str:
    """Say of a model that its logits are those of the pooled head in evaluation alone."""
    assert layer.head is not None, "layers without a head are not held to its rule"
    return (
        f"the logits are those that the head {layer.head.name!r} gives the spatial mean of the "
        "feature map in eval mode alone, and others in training mode"
    )


def _left_out(layer: ExplainedLayer) -> InputError:
    """Make the error for a forward that did not go through the explained layer."""
    return InputError(
        f"this forward left out the layer {layer.source.name!r}, which is explained and which runs "
        "in eval mode; pass a model that runs it in each forward (stochastic depth may multiply a "
        "branch by zero in place of skipping it), or the name of a layer that always runs"
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
