"""Search spaces: what a cell may be (genotypes), its supernets, and the networks made of it."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily
from selfexplain.spaces import registry as registry  # makes the spaces of the library known

if TYPE_CHECKING:
    from selfexplain.spaces.genotype import (
        FAMILIES,
        Cell,
        Edge,
        Genotype,
        all_conv3x3,
        random_genotype,
    )
    from selfexplain.spaces.genotype_io import (
        from_string,
        load_genotype,
        published_genotypes,
        save_genotype,
        to_string,
    )
    from selfexplain.spaces.network import build_network, count_multiply_adds, count_parameters
    from selfexplain.spaces.operations import set_drop_path
    from selfexplain.spaces.space import SPACES, CellRules, SearchSpace, Size, register_space
    from selfexplain.spaces.supernet import Supernet, build_supernet, one_hot_architecture

__all__ = [
    "FAMILIES",
    "SPACES",
    "Cell",
    "CellRules",
    "Edge",
    "Genotype",
    "SearchSpace",
    "Size",
    "Supernet",
    "all_conv3x3",
    "build_network",
    "build_supernet",
    "count_multiply_adds",
    "count_parameters",
    "from_string",
    "load_genotype",
    "one_hot_architecture",
    "published_genotypes",
    "random_genotype",
    "register_space",
    "save_genotype",
    "set_drop_path",
    "to_string",
]

lazily(
    __name__,
    {
        "genotype": "Cell Edge FAMILIES Genotype all_conv3x3 random_genotype",
        "genotype_io": "from_string load_genotype published_genotypes save_genotype to_string",
        "network": "build_network count_multiply_adds count_parameters",
        "operations": "set_drop_path",
        "space": "CellRules SPACES SearchSpace Size register_space",
        "supernet": "Supernet build_supernet one_hot_architecture",
    },
)
