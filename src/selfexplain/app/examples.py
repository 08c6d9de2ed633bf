"""The images that a run has kept of those that it was scored on.

Shape suffixes: B images, C channels, H and W space.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.training.files import read_shaped

ALBUM = Path("album") / "images.safetensors"
"""Where a run keeps them, in its folder."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image (C, H, W) in uint8, and its true class by name.

    Example:
        >>> import torch
        >>> Example(torch.zeros(1, 8, 8, dtype=torch.uint8), "cat").image().size
        (8, 8)
    """

    image_CHW: Tensor
    class_name: str

    def image(self) -> Image.Image:
        """The image as one of Pillow."""
        return Image.fromarray(self.image_CHW.permute(1, 2, 0).squeeze(2).numpy())


def read_examples(folder: Path, class_names: tuple[str, ...]) -> list[Example]:
    """The kept images of a run; none where it has kept none.

    Args:
        folder: of the run.
        class_names: of the run.

    Raises:
        InputError: the file of kept images cannot be read.

    Example:
        >>> read_examples(Path("absent"), ("cat", "dog"))
        []
    """
    path = folder / ALBUM
    if not path.exists():
        return []
    album = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    labels = album["labels"].tolist()
    if not all(0 <= label < len(class_names) for label in labels):
        raise InputError(
            f"{path} holds no images of this run (a label is none of its {len(class_names)} "
            "classes); delete it to go without examples"
        )
    return [
        Example(image_CHW, class_names[label])
        for image_CHW, label in zip(album["images"], labels, strict=True)
    ]
