"""What a search left behind, as its report reads it.

Shape suffixes: B images, C channels, H and W space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfexplain.lease import BaseOptions
from selfexplain.lease.options import WITHOUT_SEARCH
from selfexplain.spaces import SPACES


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """What the explainer would have shown its audience after an epoch.

    Args:
        delta_BCHW: the explanations, in units of the pixels' range [0, 1].
        explained_BCHW: x (*) delta as pictures in the same units; values may lie outside [0, 1].

    Example:
        >>> Explained(delta_BCHW=np.zeros((1, 1, 2, 2)), explained_BCHW=np.ones((1, 1, 2, 2)))
        ... # doctest: +ELLIPSIS
        Explained(...)
    """

    delta_BCHW: np.ndarray
    explained_BCHW: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSnapshots:
    """The images of a search's snapshots, and how they were explained.

    Args:
        images_BCHW: uint8.
        labels: the class of each, as text.
        epochs: number of the epoch, from 1 -> what was shown after it.

    Example:
        >>> images = np.zeros((1, 1, 2, 2), np.uint8)
        >>> SearchSnapshots(images_BCHW=images, labels=("3",), epochs={}).labels
        ('3',)
    """

    images_BCHW: np.ndarray
    labels: tuple[str, ...]
    epochs: Mapping[int, Explained]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRecord:
    """A search, finished or not.

    Args:
        config: as `run.json` has it.
        train_images: how many images the weights learn from; None where there are none.
        history: a line for each epoch, as `search.jsonl` has them.
        result: as `result.json` has it; None for a search that is not finished.
        snapshots: None where the search left none.
        lookups: what its cell reaches in a benchmark, as `lookup.json` has it.

    Example:
        >>> config = {"method": "random", "space": "nasbench201", "seed": 0, "epochs": 50}
        >>> SearchRecord(config=config).finished
        False
    """

    config: Mapping[str, Any]
    train_images: int | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    result: Mapping[str, Any] | None = None
    snapshots: SearchSnapshots | None = None
    lookups: tuple[Mapping[str, Any], ...] = ()

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    @property
    def searched(self) -> bool:
        """Whether its method searched, rather than named a cell."""
        return self.config["method"] not in WITHOUT_SEARCH

    @property
    def samples(self) -> bool:
        """Whether its method draws cells, so that weights are 1 or 0."""
        return self.config["method"] in ("random_search", "random_best")

    @property
    def planned_epochs(self) -> int:
        """Epochs of the search and of the selection of its cell."""
        family = SPACES[self.config["space"]].family
        given = {k: v for k, v in self.config.get("base", {}).items() if k.startswith("select")}
        return int(self.config["epochs"]) + BaseOptions(**given).more_epochs(family)

    @property
    def explains(self) -> bool:
        """Whether its method has an audience that is shown explanations."""
        return self.config["method"] in ("lease", "sanas")
