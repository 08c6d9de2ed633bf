"""Read the stages of a model while it runs.

Shape suffixes: B batch, C channels, F features, H and W space.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.explanations.compiled import modules_around, run_eagerly
from selfexplain.explanations.state import recomputing
from selfexplain.objectives.stages import Staging


class Seen:
    """What `watched` saw in the last forward pass.

    Example:
        >>> Seen(Staging(stages=(), side=4, head="fc", features=2, classes=3)).maps()
        []
    """

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
def watched(model: nn.Module, staging: Staging) -> Iterator[Seen]:
    """Keep the live feature maps of a forward pass in this block; hooks are gone after it.

    Example:
        >>> import torch
        >>> from selfexplain.models import build_model
        >>> from selfexplain.objectives.stages import find_stages
        >>> model = build_model("small_cnn", num_classes=10, in_channels=1)
        >>> with watched(model, find_stages(model, (1, 28, 28))) as seen:
        ...     logits = model(torch.zeros(2, 1, 28, 28))
        >>> [tuple(map_BCHW.shape) for map_BCHW in seen.maps()]
        [(2, 32, 28, 28), (2, 64, 14, 14)]
    """
    seen = Seen(staging)

    def keep(outputs: list[Tensor]) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            if not recomputing():
                outputs.append(output)

        return hook

    def keep_given(_module: object, inputs: tuple[Tensor, ...]) -> None:
        if not recomputing():
            seen.given.append(inputs[0])

    with ExitStack() as stack:
        for name, outputs in seen.outputs.items():
            stack.enter_context(run_eagerly(modules_around(model, name)))
            stack.callback(model.get_submodule(name).register_forward_hook(keep(outputs)).remove)
        head = model.get_submodule(staging.head)
        stack.enter_context(run_eagerly(modules_around(model, staging.head)))
        stack.callback(head.register_forward_pre_hook(keep_given).remove)
        yield seen
