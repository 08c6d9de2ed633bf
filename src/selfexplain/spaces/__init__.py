"""Search spaces: what a cell may be (genotypes), its supernets, and the networks made of it."""

from selfexplain.spaces.build import build_supernet
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype
from selfexplain.spaces.supernet import Supernet

__all__ = ["FAMILIES", "Cell", "Edge", "Genotype", "Supernet", "build_supernet"]
