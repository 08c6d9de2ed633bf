"""The app: what a finished run sees in an image, in a browser."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.app.board import Board
    from selfexplain.app.explain import Explainer, Explanation, open_upload, to_shape

__all__ = [
    "Board",
    "Explainer",
    "Explanation",
    "open_upload",
    "to_shape",
]

lazily(
    __name__,
    {
        "board": "Board",
        "explain": "Explainer Explanation open_upload to_shape",
    },
)
