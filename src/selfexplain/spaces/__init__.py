"""Search spaces: what a cell may be (genotypes), its supernets, and the networks made of it."""

from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype

__all__ = ["FAMILIES", "Cell", "Edge", "Genotype"]
