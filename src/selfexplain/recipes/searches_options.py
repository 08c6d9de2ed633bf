"""The options of `selfexplain search`: one search, or the same search with several seeds."""

from dataclasses import dataclass, field, fields
from typing import Annotated

import tyro

from selfexplain.errors import InputError
from selfexplain.limits import Seed, check_once, check_options
from selfexplain.recipes.options import name_folder
from selfexplain.recipes.search_options import SearchConfig
from selfexplain.recipes.sweep_options import SweepOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchesConfig(SearchConfig):
    """Search for an architecture, once or with several seeds.

    The training images are parted in two: weights learn from one half (or --train-size images of
    it), the architecture from the other (--validation sets its share). With --seeds the same
    command again continues what was stopped; seeds may be added.

    Example:
        >>> from selfexplain.recipes.options import DataOptions
        >>> config = SearchesConfig(data=DataOptions(data="digits"), seeds=(0, 1))
        >>> [one.out.name for one in config.each()]
        ['seed0', 'seed1']
    """

    seeds: tuple[Seed, ...] = ()
    """Search with each of these seeds, in the folders seed0, seed1, ... of --out; none for one
    search, with --seed, in --out itself."""
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        """Refuse seeds and processes that would not be looked at; name the folder."""
        check_options(self)
        if self.seeds:
            if self.seed:
                raise InputError("--seed and --seeds exclude each other; pass one of them")
            check_once(self, "seeds")
            name_folder(self, "searches", self.space, self.method, free=("seed", "seeds"))
        elif self.sweep != SweepOptions():
            raise InputError("workers and clusters are for several searches; pass --seeds 0 1 ...")
        SearchConfig.__post_init__(self)

    def each(self) -> list[SearchConfig]:
        """The search of each seed; that of `seed` if there are no `seeds`."""
        if not self.seeds:
            return [self._one()]
        return [
            self._one(seed=seed, out=self.out / f"seed{seed}", resume=True) for seed in self.seeds
        ]

    def _one(self, **instead: object) -> SearchConfig:
        values = {f.name: getattr(self, f.name) for f in fields(SearchConfig)}
        return SearchConfig(**(values | instead))
