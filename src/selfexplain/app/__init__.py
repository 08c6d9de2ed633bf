"""The app: what a finished run sees in an image, in a browser."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.app.explain import Explainer, Explanation, open_upload, to_shape
    from selfexplain.app.viewer import Viewer

__all__ = [
    "Explainer",
    "Explanation",
    "Viewer",
    "open_upload",
    "to_shape",
]

lazily(
    __name__,
    {
        "explain": "Explainer Explanation open_upload to_shape",
        "viewer": "Viewer",
    },
)
