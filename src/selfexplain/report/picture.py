"""The picture of an explanation: image, class maps, and the soft target as bars.

Shape suffixes: B images, C channels, H and W space, K classes.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from selfexplain.writing import atomic_file

RIVALS = 3
"""How many classes are shown beside the explained one."""


def explanation_figure(
    images_BCHW: Tensor,
    maps_BKHW: Tensor,
    target_BK: Tensor,
    explained_B: Tensor,
    class_names: Sequence[str],
    titles: Sequence[str],
) -> Figure:
    """One row an image: the image, its class's map, the three top rivals' maps, the soft target.

    Args:
        images_BCHW: images in [0, 1], one or three channels.
        maps_BKHW: class maps at any resolution.
        target_BK: soft target over the classes other than the explained one.
        explained_B: the explained class of each image.
        class_names: names of the K classes.
        titles: what is written over each image.

    Example:
        >>> import torch
        >>> figure = explanation_figure(
        ...     torch.rand(1, 1, 8, 8), torch.rand(1, 4, 2, 2), torch.rand(1, 4),
        ...     torch.tensor([2]), ["a", "b", "c", "d"], ["c 90 %"])
        >>> len(figure.axes)
        6
    """
    rows, rivals = len(images_BCHW), min(RIVALS, len(class_names) - 1)
    figure = Figure(figsize=(1.9 * (rivals + 2) + 2.6, 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(
        rows, rivals + 3, squeeze=False, width_ratios=[1.0] * (rivals + 2) + [1.4]
    )
    for axes, image_CHW, maps_KHW, target_K, explained, title in zip(
        grid, images_BCHW, maps_BKHW, target_BK, explained_B.tolist(), titles, strict=True
    ):
        order = target_K.argsort(descending=True).tolist()
        shown = [explained, *[k for k in order if k != explained][:rivals]]
        _draw_image(axes[0], image_CHW, title)
        scale = float(maps_KHW[shown].abs().max()) or 1.0
        for place, k in zip(axes[1:-1], shown, strict=True):
            _draw_map(place, image_CHW, maps_KHW[k], scale, class_names[k])
        _draw_bars(axes[-1], target_K, shown[1:], class_names)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, atomically; the format follows the name's ending (png, svg, pdf).

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> save_figure(Figure(), path); path.exists()
        True
    """
    content = BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=130)
    with atomic_file(path) as file:
        file.write(content.getvalue())


def _draw_image(axes: Axes, image_CHW: Tensor, title: str) -> None:
    axes.imshow(_pixels(image_CHW), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_axis_off()


def _draw_map(axes: Axes, image_CHW: Tensor, map_HW: Tensor, scale: float, name: str) -> None:
    """The map over the grey image: red speaks for the class, blue against it."""
    height, width = image_CHW.shape[1:]
    axes.imshow(_pixels(image_CHW.mean(dim=0, keepdim=True)), cmap="gray", vmin=0, vmax=1)
    large = F.interpolate(map_HW[None, None], (height, width), mode="bilinear")[0, 0]
    axes.imshow(large.numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale, alpha=0.6)
    axes.set_title(name, fontsize=9, parse_math=False)
    axes.set_axis_off()


def _draw_bars(axes: Axes, target_K: Tensor, rivals: list[int], names: Sequence[str]) -> None:
    axes.barh(range(len(rivals)), target_K[rivals].tolist(), color="tab:orange")
    shown = [names[k] for k in rivals]
    axes.set_yticks(range(len(rivals)), shown, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("soft target", fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _pixels(image_CHW: Tensor) -> np.ndarray:
    """(H, W) for grey, (H, W, 3) for colour."""
    pixels: np.ndarray = image_CHW.permute(1, 2, 0).squeeze(2).clamp(0, 1).numpy()
    return pixels
