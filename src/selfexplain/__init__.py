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

from typing import Any

from selfexplain.errors import InputError
from selfexplain.explanations import class_maps
from selfexplain.introspection import Introspective

__all__ = ["InputError", "Introspective", "class_maps", "from_pretrained"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`from_pretrained` when it is asked for: what it needs takes a while to import."""
    if name == "from_pretrained":
        from selfexplain.recipes.pretrained import from_pretrained

        return from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
