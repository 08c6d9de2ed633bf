"""Boxes of objects in image files, for the pointing game.

The file is a CSV table with the header `image,x_min,y_min,x_max,y_max` and, if wanted, `class`: one
row a box; image paths are relative to the file and stay below its folder; pixels of the upright
image, measured to its edges; the class by its name, or empty for the class that the model predicts.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfexplain.data.decode import header_size
from selfexplain.data.opening import lies_below, open_image
from selfexplain.errors import InputError

COLUMNS = ("image", "x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxedImage:
    """An image file, the boxes (n, 4) of the objects of one class in it, and that class.

    Example:
        >>> BoxedImage(path=Path("a.png"), boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]])).label is None
        True
    """

    path: Path
    boxes: Tensor
    label: int | None = None


def read_boxes(path: Path, class_names: Sequence[str]) -> list[BoxedImage]:
    r"""Read a table of boxes; those of one image and class belong together.

    Raises:
        InputError: the file is missing or is no such table; the message names the line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "boxes.csv"
        >>> _ = path.write_text("image,x_min,y_min,x_max,y_max,class\na.png,0,0,4,4,cat\n")
        >>> read_boxes(path, ("dog", "cat"))[0].label
        1
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); pass a CSV file of boxes") from error
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise InputError(
            f"{path} is no table of boxes; pass a CSV file with the header {','.join(COLUMNS)} "
            "and one row a box"
        )
    found: dict[tuple[Path, int | None], list[list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            key = _own_image(path.parent, row["image"]), _label(row.get("class"), class_names)
            found.setdefault(key, []).append(_box(row))
        except TypeError as error:
            raise InputError(f"{path}, line {number} is too short; fill every column") from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return [
        BoxedImage(path=image, boxes=torch.tensor(boxes), label=label)
        for (image, label), boxes in found.items()
    ]


def boxes_in_model(image: BoxedImage, shape_CHW: tuple[int, int, int]) -> Tensor:
    """The boxes in the pixels of the model's image, which is cut from the middle and resized.

    Images of a model whose images are not square keep their size, and boxes theirs. Parts outside
    are cut off, and boxes wholly outside left out.

    Returns:
        Boxes (n, 4), of which there may be none.
    """
    _, height, width = shape_CHW
    scale, left, top = 1.0, 0.0, 0.0
    if height == width:
        with open_image(image.path) as opened:
            size_HW = header_size(opened)
        scale = height / min(size_HW)
        left, top = (size_HW[1] - min(size_HW)) / 2, (size_HW[0] - min(size_HW)) / 2
    offset = torch.tensor([left, top, left, top])
    limit = torch.tensor([width, height, width, height])
    boxes = ((image.boxes - offset) * scale).clamp(min=0).minimum(limit)
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def _own_image(folder: Path, name: str) -> Path:
    """An image that a table names: a table may come from a stranger, and stays with its images."""
    image = folder / name
    if not lies_below(image, [folder]):
        raise ValueError(
            f"the image {name!r} does not lie in {folder}, the folder of the table; put both into "
            "one folder"
        )
    return image


def _label(name: str | None, class_names: Sequence[str]) -> int | None:
    if not name:
        return None
    if name not in class_names:
        known = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        raise ValueError(f"there is no class {name!r}; pass one of {known}, or leave it empty")
    return class_names.index(name)


def _box(row: dict[str, str]) -> list[float]:
    box = [float(row[column]) for column in COLUMNS[1:]]
    if not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"{box} is no box; pass numbers with x_min < x_max and y_min < y_max")
    return box
