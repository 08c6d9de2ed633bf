"""The app: what a finished run sees in an image, in a browser."""

from selfexplain.app.board import Board
from selfexplain.app.explain import Explainer, Explanation
from selfexplain.app.images import open_upload, to_shape

__all__ = [
    "Board",
    "Explainer",
    "Explanation",
    "open_upload",
    "to_shape",
]
