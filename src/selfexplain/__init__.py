"""Neural networks that learn by explaining themselves.

Example:
    >>> import torch
    >>> from selfexplain import Introspective, class_maps
    >>> from selfexplain.models import build_model
    >>> model = build_model("small_cnn", num_classes=5, in_channels=1)
    >>> class_maps(model, torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 5, 2, 2])
    >>> Introspective(model)(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))["loss"].backward()
"""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.errors import InputError
    from selfexplain.experiments.fit.pretrained import from_pretrained
    from selfexplain.experiments.fit.recorder import Recorder
    from selfexplain.explanations.maps import class_maps
    from selfexplain.introspection.objective import Introspective

__all__ = [
    "InputError",
    "Introspective",
    "Recorder",
    "class_maps",
    "from_pretrained",
]

__version__ = "0.1.0"

lazily(
    __name__,
    {
        "errors": "InputError",
        "experiments.fit.pretrained": "from_pretrained",
        "experiments.fit.recorder": "Recorder",
        "explanations.maps": "class_maps",
        "introspection.objective": "Introspective",
    },
)
