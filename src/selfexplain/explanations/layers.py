"""Find the layer to explain: the one that feeds a pooled head, or the last with space."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from selfexplain.errors import InputError
from selfexplain.explanations import MapKind
from selfexplain.explanations.hooks import (
    ForwardHook,
    HeadCall,
    Hook,
    LinearWeights,
    capture,
    each_tensor,
    every_output,
    forward_hooks,
    function_hook,
    gradients_of_score,
    other_weights,
    preserved,
)
from selfexplain.explanations.layout import (
    POOLED_KINDS,
    ExplainedLayer,
    FeatureLayout,
    PooledHead,
    TensorSource,
    check_images,
    check_kind,
    check_output,
    find_module,
    is_of_heads,
    known_grids,
    layouts_of,
    no_positions,
    pooled,
    refuse_what_is_not_finite,
    sequences_of,
    to_BFHW,
)

# All that shows in one forward: what modules return, what functions between them are given.


# Enough to distinguish tensors by value, and cheap.
N_IMAGES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A tensor with space, seen as output of a module or as argument of a function.

    Its spatial means are taken on sight, as the tensor may be changed in place later.
    """

    tensor: Tensor
    module: str | None  # that returned it; None for arguments of functions
    after: str | None  # the last module that had finished by then
    means: list[tuple[FeatureLayout, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class LinearCall(HeadCall):
    """One call of a ``nn.Linear``, and how many sightings had been made before it."""

    name: str
    linear: nn.Linear
    given_by: str | None  # the last module that returned the very input
    given_has_values: bool  # whether that module has parameters or buffers
    sightings: int


@dataclass(slots=True)
class Trace:
    """What was seen in one forward."""

    image_BCHW: torch.Size
    sightings: list[Sighting] = field(default_factory=list)
    linear_calls: list[LinearCall] = field(default_factory=list)
    called: dict[str, nn.Module] = field(default_factory=dict)
    returned: dict[str, str] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    """Of each module: how many sightings had been made when its last call ended."""
    outputs: dict[str, object] = field(default_factory=dict)
    maps: int = 0
    """How many outputs have had four axes."""
    asked: dict[tuple[int, int, int], bool] = field(default_factory=dict)
    """Whether these tokens, of this width, after these maps, have the grid they seem to have."""
    logits_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def see(self, tensor: object, module: str | None) -> None:
        """Record ``tensor`` if it has space."""
        layouts = self._known(layouts_of(tensor, self.image_BCHW), tensor)
        if layouts and isinstance(tensor, Tensor):
            means = [(layout, pooled(tensor.detach(), layout)) for layout in layouts]
            after = next(reversed(self.called), None)
            self.sightings.append(Sighting(tensor, module, after, means))

    def _known(self, layouts: list[FeatureLayout], tensor: object) -> list[FeatureLayout]:
        """Ask once for each number and width of tokens, and again when a map was seen since."""
        if not isinstance(tensor, Tensor) or not layouts or layouts[0].grid is None:
            return layouts
        key = tensor.shape[1], tensor.shape[2], self.maps
        if key not in self.asked:
            outputs = [*self.outputs.values(), tensor]
            self.asked[key] = bool(known_grids(layouts, outputs, self.image_BCHW))
        return layouts if self.asked[key] else []


def probe_images(x_BCHW: Tensor) -> Tensor:
    """A few images to probe a model with: copies, safe from models that write in place.

    Noise stands in for images of one colour, for which the mean of a feature map is its maximum,
    too: a head on either would look like a head on the other. It has a generator of its own.

    Example:
        >>> probe_images(torch.ones(4, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    x_BCHW = x_BCHW.detach()[:N_IMAGES].clone()
    one_colour_B = (x_BCHW == x_BCHW[:, :, :1, :1]).flatten(1).all(dim=1)
    noise_BCHW = torch.rand(x_BCHW.shape, generator=torch.Generator().manual_seed(0)).to(x_BCHW)
    return torch.where(one_colour_B[:, None, None, None], noise_BCHW, x_BCHW)


def traced(
    model: nn.Module, x_BCHW: Tensor, lent: AbstractContextManager[None] | None = None
) -> Trace:
    """Watch a forward of a few images in eval mode, without gradients; nothing else is changed.

    What is `lent` is in force during the forward, such as ``other_weights``.
    """
    x_BCHW = probe_images(x_BCHW)
    trace, weights = Trace(x_BCHW.shape), LinearWeights()
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW, eval_mode=True))
        stack.enter_context(lent or nullcontext())
        stack.enter_context(torch.no_grad())
        notes = every_output(model, lambda name: _note(trace, name, weights))
        stack.enter_context(forward_hooks(model, notes))
        if any(isinstance(m, nn.Linear) and is_parametrized(m) for m in model.modules()):
            stack.enter_context(function_hook(weights))
        with function_hook(each_tensor(lambda tensor: trace.see(tensor, None))):
            logits = model(x_BCHW)
    trace.logits_BK = check_output(logits, len(x_BCHW))
    return trace


def _note(trace: Trace, name: str, weights: LinearWeights) -> Hook:
    """Make a forward hook that notes a module's output, and that it was the last to finish."""

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        trace.finished[name] = len(trace.sightings)
        trace.see(output, name)
        given_by = _returned_by(trace, inputs[0]) if inputs else None
        trace.called.pop(name, None)
        trace.outputs[name] = output
        trace.maps += isinstance(output, Tensor) and output.dim() == 4
        trace.called[name] = module
        shape = getattr(output, "shape", None)
        trace.returned[name] = type(output).__name__ if shape is None else str(tuple(shape))
        if isinstance(module, nn.Linear) and inputs and isinstance(output, Tensor):
            used = weights.of(module)
            if used is None:
                return
            given, gave = inputs[0].detach().clone(), output.detach().clone()
            count = len(trace.sightings)
            valued = given_by is not None and _has_values(trace.called[given_by])
            call = LinearCall(given, gave, *used, name, module, given_by, valued, count)
            trace.linear_calls.append(call)

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - inspecting calls functions, too
            note(module, inputs, output)

    return hook


def _has_values(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers."""
    tensors = (next(module.parameters(), None), next(module.buffers(), None))
    return any(tensor is not None for tensor in tensors)


def _returned_by(trace: Trace, tensor: object) -> str | None:
    """The last module that returned this very tensor."""
    return next((name for name in reversed(trace.called) if trace.outputs[name] is tensor), None)


# The linear head, and the feature map that is averaged into it (B batch, F features).


# Relative to the largest value; two ways to compute a mean differ by rounding only.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
}


def find_pooled_head(model: nn.Module, x_BCHW: Tensor) -> PooledHead:
    """Find the ``nn.Linear`` that returns the logits and the feature map that is pooled into it.

    Watches one forward of two images in eval mode and leaves the model as it was. The feature map
    is known by its values: its mean over space is the head's input. So pooling may be a module, a
    function or a reshape and a mean, and dropout may follow it. Tokens (B, T, D) count where the
    mean is over the patch tokens. It must be so with other weights, too, in a second forward: what
    lies between pool and head is often the identity at first, as BatchNorm in eval mode is.

    Args:
        model: any module that maps images (B, C, H, W) to logits (B, K).
        x_BCHW: a few images such as the model takes.

    Raises:
        InputError: if there is no such head (a 1x1 convolution is none), or the input is no image
            batch, or the output no logits.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ... )
        >>> find_pooled_head(model, torch.rand(2, 3, 8, 8)).source
        TensorSource(at='output', name='0')
    """
    check_images(x_BCHW)
    trace = traced(model, x_BCHW)
    head = pooled_head_of(model, x_BCHW, trace)
    if isinstance(head, str):
        refuse_what_is_not_finite(model, x_BCHW, trace.logits_BK)
        raise no_pooled_head(head)
    return head


def pooled_head_of(model: nn.Module, x_BCHW: Tensor, trace: Trace) -> PooledHead | str:
    """The pooled head that the model has with these weights and with others, or why there is none.

    Only what runs after the feature map gets other weights. If these make numbers overflow, they
    tell nothing.
    """
    head = search(trace)
    if isinstance(head, str):
        return head
    call = _head_call(trace)
    assert call is not None, "a head was found"
    first = next(i for i, sighting in enumerate(trace.sightings) if _mean_is(sighting, call.input))
    after = [
        module
        for name, module in model.named_modules()
        if trace.finished.get(name, len(trace.sightings)) > first
    ]
    # Large ones, so that what bends large logits bends these.
    if _holds(head, model, x_BCHW, other_weights(after, gain=8.0)):
        return head
    again = traced(model, x_BCHW, other_weights(after, gain=8.0))
    return search(again) if bool(again.logits_BK.isfinite().all()) else head


def _holds(
    head: PooledHead, model: nn.Module, x_BCHW: Tensor, lent: AbstractContextManager[None]
) -> bool:
    """Whether a forward has this head at the places it was found at: cheaper than a search."""
    x_BCHW = probe_images(x_BCHW)
    layer = ExplainedLayer(head.source, head.layout, head)
    still = preserved(model, x_BCHW, eval_mode=True)
    with still, lent, torch.no_grad(), capture(model, layer) as captured:
        logits_BK = check_output(model(x_BCHW), len(x_BCHW))
    calls = [call for call in captured.head_calls if _gives_logits(call, logits_BK)]
    if not captured.saw or not calls:
        return False
    return _close(pooled(captured.activation, head.layout), calls[-1].input)


def no_pooled_head(reason: str) -> InputError:
    """Make the error that says why there is no pooled head, and what works without one.

    Example:
        >>> "grad_cam" in str(no_pooled_head("the head is missing"))
        True
    """
    return InputError(
        "kind 'cam' needs a feature map whose spatial mean feeds the nn.Linear that returns the "
        f"logits, but {reason}; pass kind='grad_cam', 'feature_x_gradient', 'gradient' or "
        "'input_x_gradient'"
    )


def search(trace: Trace) -> PooledHead | str:
    """Find the pooled head in a trace; otherwise return the reason why there is none."""
    call = _head_call(trace)
    if call is None:
        return "no nn.Linear returns the logits" + (_split(trace) or _convolution_head(trace))
    reason = f"the input of the head {call.name!r} is not the spatial mean of a feature map"
    before = trace.sightings[: call.sightings]
    matches = [
        (sighting, layout) for sighting in before if (layout := _mean_is(sighting, call.input))
    ]
    if not matches:
        return reason + (_single_position(trace, call.linear.in_features) or _between_them(call))
    last, layout = matches[-1]
    same = [sighting for sighting, _ in matches if sighting.tensor is last.tensor]
    layers = tuple(n for n in trace.called if _last_of(n, trace.sightings, layout) in same)
    source = TensorSource("output", layers[-1]) if layers else _between(before, layout, same)
    return PooledHead(call.linear, call.name, source, layout, layers) if source else reason


def _head_call(trace: Trace) -> LinearCall | None:
    """Return the last call of a linear layer that gave the logits."""
    calls = reversed(trace.linear_calls)
    return next((call for call in calls if _gives_logits(call, trace.logits_BK)), None)


def _gives_logits(call: HeadCall, logits_BK: Tensor) -> bool:
    """Tell whether this call gave the logits, by a plain linear map of a vector."""
    weight_KF, bias_K = call.weight_KF.detach(), call.bias_K
    if call.input.dim() != 2 or not _close(call.output, logits_BK):
        return False
    linear_map = call.input.to(weight_KF.dtype) @ weight_KF.T
    return _close(linear_map if bias_K is None else linear_map + bias_K.detach(), call.output)


def _split(trace: Trace) -> str:
    """Name the head that is given parts of the batch, for the error message."""
    batch, width = trace.logits_BK.shape
    for call in reversed(trace.linear_calls):
        if call.output.dim() == 2 and call.output.shape[1] == width and len(call.output) < batch:
            return (
                f" (the head {call.name!r} is given {len(call.output)} of {batch} images: pass the "
                "model without the wrapper that splits the batch)"
            )
    return ""


def _between_them(call: LinearCall) -> str:
    """Name the layer with values of its own that returns the head's input."""
    return f" (it is what {call.given_by!r} returns)" if call.given_has_values else ""


def _convolution_head(trace: Trace) -> str:
    """Name the 1x1 convolution that seems to be the head, for the error message."""
    width = trace.logits_BK.shape[1]
    for name, module in reversed(trace.called.items()):
        if isinstance(module, nn.Conv2d) and module.out_channels == width:
            return f" (the head seems to be the convolution {name!r}, which is not supported)"
    return ""


def _single_position(trace: Trace, features: int) -> str:
    """Name the cause if the images are so small that the last feature map has no space left."""
    # Where this many features have space anywhere, what returns a single position may be the pool.
    had_space = any(layout.channels == features for s in trace.sightings for layout, _ in s.means)
    for name, module in trace.called.items():
        last = trace.returned[name].endswith(f", {features}, 1, 1)")
        if last and (not had_space or _narrows(module)):
            return f" (the feature map at {name!r} has a single position: use larger images)"
    return ""


def _narrows(module: nn.Module) -> bool:
    """Tell whether a module computes a smaller map than it is given; a pool only averages."""
    return isinstance(module, nn.Conv2d) and {module.kernel_size, module.stride} != {(1, 1)}


def _mean_is(sighting: Sighting, vector_BF: Tensor) -> FeatureLayout | None:
    """Return the layout in which the spatial mean of the sighting is ``vector_BF``."""
    return next((layout for layout, mean in sighting.means if _close(mean, vector_BF)), None)


def _last_of(name: str, sightings: list[Sighting], layout: FeatureLayout) -> Sighting | None:
    """Return the last output of a module in this layout: the one that a hook will keep."""
    found = (s for s in reversed(sightings) if s.module == name and layout.fits(s.tensor))
    return next(found, None)


def _between(
    before: list[Sighting], layout: FeatureLayout, same: list[Sighting]
) -> TensorSource | None:
    """Return the source of a feature map that no module returns.

    In a later forward the last argument that fits is taken; here it must be the right one.
    """
    fitting = [
        sighting for sighting in before if sighting.module is None and layout.fits(sighting.tensor)
    ]
    last = fitting[-1] if fitting else None
    return TensorSource("function", last.after or "") if last in same and last is not None else None


def _close(a: Tensor, b: Tensor) -> bool:
    """Compare with the tolerance of the coarser type."""
    if a.shape != b.shape:
        return False
    tolerance = max(TOLERANCES.get(t.dtype, 2e-2) for t in (a, b))
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(wide), b.to(wide)
    return bool((a - b).abs().max() <= tolerance * torch.maximum(a.abs().max(), b.abs().max()))


# The last layer with space that the logits hang on, for models without a pooled head.


def last_responsive_layer(model: nn.Module, x_BCHW: Tensor) -> tuple[str, FeatureLayout]:
    """Find the last module, in order of execution, whose output positions move the logits.

    In a vision transformer with a class token, what follows the last mixing of tokens is passed
    over: there the patch tokens have no gradient. Tokens must be as wide as the last ones are, so
    that the inside of an MLP does not count. What attention heads compute is no feature map; tokens
    without a known grid are refused rather than passed over for the map that they are made of.
    """
    check_images(x_BCHW)
    found = outputs_with_space(model, x_BCHW)
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    passed: tuple[str, torch.Size] | None = None
    for name, layout, gradient in reversed(found):
        if layout is None:
            if passed is None and bool(gradient.any()):
                passed = name, gradient.shape
            continue
        wide = layout.axes != "BTD" or layout.channels == tokens[-1].channels
        if wide and bool((gradient_BFHW := to_BFHW(gradient, layout)).any()):
            if passed is not None and _made_of(passed[1], gradient_BFHW.shape):
                raise no_positions(passed[0], str(tuple(passed[1])), x_BCHW.shape)
            return name, layout
    raise InputError(
        "no layer on which the logits depend returns a feature map (B, C, H, W) or a grid of "
        "tokens (B, T, D); pass the name of a layer, or kind='gradient' for the images themselves"
    )


def outputs_with_space(
    model: nn.Module, x_BCHW: Tensor
) -> list[tuple[str, FeatureLayout | None, Tensor]]:
    """Names, layouts and gradients of outputs with positions, in order of execution.

    What attention heads compute is left out. Sequences without a known grid have no layout.
    """
    image_BCHW = x_BCHW[:N_IMAGES].shape
    all_found = outputs_and_gradients(model, x_BCHW)
    outputs = [output for _, output, _ in all_found]
    sequences = sequences_of(outputs, image_BCHW)
    found = []
    known: dict[FeatureLayout, bool] = {}
    for name, output, gradient in all_found:
        layouts = layouts_of(output, image_BCHW)
        if layouts and layouts[0] not in known:
            known[layouts[0]] = bool(known_grids(layouts[:1], outputs, image_BCHW))
        layouts = layouts if layouts and known[layouts[0]] else []
        is_sequence = output.dim() == 3 and (output.shape[1], output.shape[2]) in sequences
        if layouts or (is_sequence and len(output) == image_BCHW[0]):
            found.append((name, layouts[0] if layouts else None, gradient))
    tokens = [layout for _, layout, _ in found if layout is not None and layout.axes == "BTD"]
    return [
        (name, layout, gradient)
        for name, layout, gradient in found
        if layout is None or not is_of_heads(gradient, tokens, sequences, image_BCHW)
    ]


def _made_of(sequence_BND: torch.Size, map_BFHW: torch.Size) -> bool:
    """Tell whether a sequence holds the positions of a map, as wide as they were."""
    positions = map_BFHW[2:].numel()
    return sequence_BND[1] >= positions > max(map_BFHW[2:]) and sequence_BND[2] == map_BFHW[1]


def outputs_and_gradients(model: nn.Module, x_BCHW: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Names and last outputs of modules, in order of execution, and the gradients of a score."""
    x_BCHW = probe_images(x_BCHW).requires_grad_()
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(preserved(model, x_BCHW, eval_mode=True))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(forward_hooks(model, _keep_outputs(model, outputs)))
        # What starts at zero, such as the last weights of a branch, would hide what lies before it.
        stack.enter_context(other_weights(model.modules(), zeros_only=True))
        logits_BK = check_output(model(x_BCHW.clone()), len(x_BCHW))
        # Fabric's wrapper forbids to differentiate what it returns.
        logits_BK = outputs.get("_forward_module", logits_BK)
        if not (outputs and logits_BK.requires_grad):
            return []
        # Not the plain sum of the logits: that of log-probabilities or centred logits is constant.
        weight_K = torch.arange(1, logits_BK.shape[1] + 1, device=logits_BK.device).cos()
        score = (logits_BK.float() * weight_K).sum()
        gradients = gradients_of_score(score, list(outputs.values()))
    pairs = zip(outputs.items(), gradients, strict=True)
    return [(name, output, grad) for (name, output), grad in pairs if grad is not None]


def _keep_outputs(model: nn.Module, outputs: dict[str, Tensor]) -> list[ForwardHook]:
    """Hooks that keep what modules return, out of reach of in-place changes."""

    def copy(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        return output.clone() if isinstance(output, Tensor) and output.requires_grad else None

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            copied = copy(module, inputs, output)
            if copied is not None:
                outputs.pop(name, None)  # the last call counts, and takes its place in the order
                outputs[name] = output
            return copied

        return hook

    # a copy again where a part is recomputed, or checkpointing would miss an operation
    return every_output(model, keep, recomputed=copy)


# The layer to explain, and others that may be.


def find_explained_layer(
    model: nn.Module, x_BCHW: Tensor, *, kind: MapKind = "cam", layer: str | None = None
) -> ExplainedLayer:
    """Find the layer to explain: the named one, or the default of the kind.

    The default is the images for ``gradient`` and ``input_x_gradient``. For the other kinds it is
    the feature map that is averaged into the linear head; where there is none (``cam`` needs one)
    the last layer with positions, or patch tokens, that the logits depend on. Layers must return
    one tensor, (B, C, H, W) or (B, T, D); the last call counts if there are several.

    Args:
        model: maps images to logits; left as it was found.
        x_BCHW: a few images such as the model takes.
        kind: one of ``KINDS``.
        layer: dotted name of a module, with or without the prefixes of DDP, Fabric, torch.compile.

    Raises:
        InputError: if kind, layer, images or logits cannot be used; the message says what can.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5))
        >>> find_explained_layer(model, torch.rand(2, 3, 8, 8), kind="grad_cam").source.name
        '0'
    """
    check_kind(kind)
    check_images(x_BCHW)
    if kind == "input_x_gradient" and layer is not None:
        raise InputError(
            f"input_x_gradient explains the images, not layer {layer!r}; "
            "pass layer=None, or kind='feature_x_gradient' for this layer"
        )
    name = None if layer is None else find_module(model, layer)[0]
    trace = traced(model, x_BCHW)
    if name is None and kind not in POOLED_KINDS:
        return ExplainedLayer(TensorSource("input", ""), FeatureLayout("BCHW", x_BCHW.shape[1]))
    if kind in POOLED_KINDS and (pooled := _pooled_layer(model, x_BCHW, trace, kind, name)):
        return pooled
    if name is None:
        name, layout = last_responsive_layer(model, x_BCHW)
        return ExplainedLayer(TensorSource("output", name), layout)
    return ExplainedLayer(TensorSource("output", name), _layout_of(trace, name))


def _pooled_layer(
    model: nn.Module, x_BCHW: Tensor, trace: Trace, kind: MapKind, name: str | None
) -> ExplainedLayer | None:
    """Return the pooled feature map if that is the layer meant; ``cam`` has no other."""
    head = pooled_head_of(model, x_BCHW, trace)
    if isinstance(head, str):
        if kind == "cam" or name is None:
            refuse_what_is_not_finite(model, x_BCHW, trace.logits_BK)
        if kind == "cam":
            raise no_pooled_head(head)
        return None
    if name is None:
        return ExplainedLayer(head.source, head.layout, head)
    if name in head.layers:
        return ExplainedLayer(TensorSource("output", name), head.layout, head)
    if kind == "cam":
        raise no_pooled_head(f"layer {name!r} is not that feature map (leave out layer to find it)")
    return None


def _layout_of(trace: Trace, name: str) -> FeatureLayout:
    """Return the layout of the last output with space of a module."""
    if name not in trace.called:
        raise InputError(f"layer {name!r} is not called in the forward pass; pass a layer that is")
    sighting = next((s for s in reversed(trace.sightings) if s.module == name), None)
    sequences = sequences_of(trace.outputs.values(), trace.image_BCHW)
    if sighting is None or is_of_heads(sighting.tensor, (), sequences, trace.image_BCHW):
        raise no_positions(name, trace.returned[name], trace.image_BCHW)
    return sighting.means[0][0]


def explainable_layers(model: nn.Module, x_BCHW: Tensor, kind: MapKind) -> tuple[str, ...]:
    """Names of the modules that `class_maps` takes as `layer` for this kind, in order of execution.

    For ``cam`` those that return the feature map that is pooled into the head; none for
    ``input_x_gradient``, which explains the images; for the others every module that returns one
    tensor with positions, or patch tokens, on which the logits depend.

    Args:
        model: maps images to logits; left as it was found.
        x_BCHW: a few images such as the model takes.
        kind: one of ``KINDS``.

    Raises:
        InputError: if kind, images or logits cannot be used, or ``cam`` finds no pooled head.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> explainable_layers(model, torch.rand(2, 3, 8, 8), "grad_cam")
        ('0', '1')
    """
    if check_kind(kind) == "cam":
        return find_pooled_head(model, x_BCHW).layers
    if kind == "input_x_gradient":
        return ()
    return tuple(
        name
        for name, layout, gradient in outputs_with_space(model, x_BCHW)
        if name and layout is not None and bool(to_BFHW(gradient, layout).any())
    )


def find_earlier_layer(model: nn.Module, x_BCHW: Tensor, last: ExplainedLayer) -> ExplainedLayer:
    """Find the last module whose output has more positions than the layer ``last``.

    In a network of stages that is the end of the stage before the last one, or the normalisation
    with which the last one begins. Maps of it need backward passes.

    Args:
        model: the model that ``last`` was found in; left as it was found.
        x_BCHW: a few images such as the model takes.
        last: the layer that the other one is to precede, from ``find_explained_layer``.

    Raises:
        InputError: if no module's output has more positions, as in a vision transformer.

    Example:
        >>> import torch
        >>> from selfexplain.explanations import find_explained_layer
        >>> from selfexplain.models import build_model
        >>> model = build_model("resnet20", num_classes=10, in_channels=3)
        >>> x = torch.rand(2, 3, 32, 32)
        >>> last = find_explained_layer(model, x)
        >>> last.source.name, find_earlier_layer(model, x, last).source.name
        ('stages', 'stages.1')
    """
    trace = traced(model, x_BCHW)
    sightings, image_BCHW = trace.sightings, trace.image_BCHW
    sequences = sequences_of(trace.outputs.values(), image_BCHW)
    tokens = [
        layout for sighting in sightings for layout, _ in sighting.means if layout.axes == "BTD"
    ]
    positions: dict[str, tuple[FeatureLayout, int]] = {}
    for sighting in sightings:
        if sighting.module is not None and not is_of_heads(
            sighting.tensor, tokens, sequences, image_BCHW
        ):
            positions.pop(sighting.module, None)  # a hook keeps a module's last call
            layout = sighting.means[0][0]
            positions[sighting.module] = layout, to_BFHW(sighting.tensor, layout)[0, 0].numel()
    limit = _positions_of(model, x_BCHW, last)
    for name in reversed(_before(last.source, list(positions))):
        layout, count = positions[name]
        if count > limit:
            return ExplainedLayer(TensorSource("output", name), layout)
    raise InputError(
        f"no earlier layer has more positions than the last one, which has {limit}; pass the name "
        "of an earlier layer"
    )


def _before(source: TensorSource, names: list[str]) -> list[str]:
    """The modules, of ``names`` in order of execution, that finish before the source shows."""
    if source.at == "input":
        return []
    return names[: names.index(source.name)] if source.at == "output" else names


def _positions_of(model: nn.Module, x_BCHW: Tensor, layer: ExplainedLayer) -> int:
    """The number of positions of an explained layer."""
    x_BCHW = x_BCHW.detach()[:N_IMAGES].clone()
    still = preserved(model, x_BCHW, eval_mode=True)
    with still, torch.no_grad(), capture(model, layer) as captured:
        model(x_BCHW)
    return captured.features_BFHW[0, 0].numel()
