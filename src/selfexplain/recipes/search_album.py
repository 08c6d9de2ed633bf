"""What the explainer would show its audience of a few held-out images, epoch after epoch.

`album/` in the folder of a search holds `images.safetensors`, with `images` uint8 (B, C, H, W) and
`labels` int64 (B,), and for each epoch `epoch-0001.safetensors`, ..., with float32 (B, C, H, W):

- `delta`, the explanation, in units of the pixels' range [0, 1]: within eps, and 0 where a pixel
  does not count;
- `explained`, x (*) delta as a picture in the same units: normalised as every image is, it becomes
  what the audience receives. A value outside [0, 1] is one that no image has, and the images' mean
  is what the networks read as zero.

The images are explained within a batch as large as one of the search (or a process's share of it),
since in training BatchNorm looks at the whole batch.
"""

import torch
from torch import Tensor

from selfexplain.data import normalise
from selfexplain.lease import ArchitectureSearch, LeaSE
from selfexplain.multilevel import Processes
from selfexplain.multilevel.processes import ALONE
from selfexplain.recipes.album import only_warned
from selfexplain.recipes.prepare import Prepared
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.training.files import write_tensors
from selfexplain.training.seeding import epoch_seed

IMAGES = 4
"""How many images the album shows."""


class SearchAlbum:
    """Writes the album of a search whose method explains (lease and its controls, sanas).

    Args:
        config: of the search.
        prepared: its images; those of the album are held out.
        device: where it runs.
        processes: those that share a batch of the search; one of them records.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from selfexplain.recipes.options import DataOptions
        >>> from selfexplain.recipes.prepare import load, prepare
        >>> from selfexplain.recipes.search_setup import build_search
        >>> options, out = DataOptions(data="digits", validation=0.1), Path(tempfile.mkdtemp())
        >>> config = SearchConfig(data=options, init_channels=4, cells=1, batch_size=16, out=out)
        >>> data, cpu = load(options), torch.device("cpu")
        >>> prepared = prepare(data, options, seed=0)
        >>> search = build_search(config, data, prepared.std_C, cpu)
        >>> SearchAlbum(config, prepared, cpu).record(search, epoch=1)
        >>> sorted(path.name for path in (out / "album").iterdir())
        ['epoch-0001.safetensors', 'images.safetensors']
    """

    def __init__(
        self,
        config: SearchConfig,
        prepared: Prepared,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.folder, self.seed = config.out / "album", config.seed
        self.prepared, self.device = prepared, device
        size = config.batch_size // processes.count
        self.indices_B = album_indices(prepared.scored.labels_N, size)

    def record(self, search: ArchitectureSearch, epoch: int) -> None:
        """Write what the explainer would show after an epoch, which counts from 1.

        Nothing of the search is changed. A method that does not explain leaves no album. What goes
        wrong is a warning.
        """
        if not isinstance(search, LeaSE):
            return
        with only_warned(f"the pictures of epoch {epoch}"):
            self._record(search, epoch)

    def _record(self, search: LeaSE, epoch: int) -> None:
        images_BCHW = self.prepared.scored.read(self.indices_B)
        labels_B = self.prepared.scored.labels_N[self.indices_B]
        first = slice(IMAGES)
        images = {"images": images_BCHW[first], "labels": labels_B[first]}
        write_tensors(self.folder / "images.safetensors", images)
        mean_C, std_C = self.prepared.mean_C.to(self.device), self.prepared.std_C.to(self.device)
        x_BCHW = normalise(images_BCHW.to(self.device), mean_C, std_C)
        batch = x_BCHW.contiguous(memory_format=torch.channels_last), labels_B.to(self.device)
        # The controls draw anew for each epoch, as they do for each step.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, 0))
        delta_BCHW, shown_BCHW = search.explain(batch, generator)
        picture_BCHW = shown_BCHW * std_C[:, None, None] + mean_C[:, None, None]
        explained = {"delta": delta_BCHW[first], "explained": picture_BCHW[first]}
        write_tensors(self.folder / f"epoch-{epoch:04d}.safetensors", explained)


def album_indices(labels_N: Tensor, size: int) -> Tensor:
    """A batch that begins with the images of the album.

    Args:
        labels_N: of the images to choose from.
        size: how many to choose, at most all.

    Returns:
        (size,) indices: first one image of each of up to four classes, which lie evenly among all
        classes, then others, evenly among the rest.

    Example:
        >>> album_indices(torch.tensor([1, 1, 0, 0, 1]), size=3)
        tensor([2, 0, 1])
    """
    classes = torch.bincount(labels_N).nonzero()[:, 0]
    shown = _evenly(classes, min(IMAGES, len(classes), size))
    firsts = torch.stack([(labels_N == label).nonzero()[0, 0] for label in shown])
    rest = torch.ones(len(labels_N), dtype=torch.bool)
    rest[firsts] = False
    return torch.cat([firsts, _evenly(rest.nonzero()[:, 0], size - len(firsts))])


def _evenly(values_N: Tensor, count: int) -> Tensor:
    """This many of the values, the first and the last among them."""
    return values_N[torch.linspace(0, len(values_N) - 1, count).long()]
