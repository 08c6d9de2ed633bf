"""Learning by self-explanation: the four levels, and the searches declared on them."""

from selfexplain.lease.darts import DARTS
from selfexplain.lease.learner import Rates
from selfexplain.lease.lease import LeaSE
from selfexplain.lease.options import LeaSEOptions
from selfexplain.lease.random_search import RandomSearch
from selfexplain.lease.sanas import SANAS
from selfexplain.lease.search import ArchitectureSearch, SearchDivergedError

__all__ = [
    "DARTS",
    "SANAS",
    "ArchitectureSearch",
    "LeaSE",
    "LeaSEOptions",
    "RandomSearch",
    "Rates",
    "SearchDivergedError",
]
