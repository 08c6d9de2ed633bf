"""Learning by self-explanation: the four levels, and the searches declared on them."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.lease.darts import DARTS
    from selfexplain.lease.lease import LeaSE
    from selfexplain.lease.options import BaseOptions, LeaSEOptions, Rates
    from selfexplain.lease.random_search import RandomSearch
    from selfexplain.lease.sanas import SANAS
    from selfexplain.lease.search import ArchitectureSearch, SearchDivergedError

__all__ = [
    "DARTS",
    "SANAS",
    "ArchitectureSearch",
    "BaseOptions",
    "LeaSE",
    "LeaSEOptions",
    "RandomSearch",
    "Rates",
    "SearchDivergedError",
]

lazily(
    __name__,
    {
        "darts": "DARTS",
        "lease": "LeaSE",
        "options": "BaseOptions LeaSEOptions Rates",
        "random_search": "RandomSearch",
        "sanas": "SANAS",
        "search": "ArchitectureSearch SearchDivergedError",
    },
)
