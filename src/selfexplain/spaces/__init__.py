"""Search spaces: what a cell may be (genotypes), its supernets, and the networks made of it."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.spaces.build import build_supernet
    from selfexplain.spaces.counts import count_multiply_adds, count_parameters
    from selfexplain.spaces.drop_path import set_drop_path
    from selfexplain.spaces.files import load_genotype, published_genotypes, save_genotype
    from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype
    from selfexplain.spaces.network import build_network
    from selfexplain.spaces.one_hot import one_hot_architecture
    from selfexplain.spaces.sampling import random_genotype
    from selfexplain.spaces.strings import from_string, to_string
    from selfexplain.spaces.supernet import Supernet

__all__ = [
    "FAMILIES",
    "Cell",
    "Edge",
    "Genotype",
    "Supernet",
    "build_network",
    "build_supernet",
    "count_multiply_adds",
    "count_parameters",
    "from_string",
    "load_genotype",
    "one_hot_architecture",
    "published_genotypes",
    "random_genotype",
    "save_genotype",
    "set_drop_path",
    "to_string",
]

lazily(
    __name__,
    {
        "build": "build_supernet",
        "counts": "count_multiply_adds count_parameters",
        "drop_path": "set_drop_path",
        "files": "load_genotype published_genotypes save_genotype",
        "genotype": "FAMILIES Cell Edge Genotype",
        "network": "build_network",
        "one_hot": "one_hot_architecture",
        "sampling": "random_genotype",
        "strings": "from_string to_string",
        "supernet": "Supernet",
    },
)
