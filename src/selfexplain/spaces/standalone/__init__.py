"""Networks of genotypes as single files of plain PyTorch that need nothing of this library.

`nasbench201_network.py` and `darts_network.py` are such files, each with a cell of its own as an
example; `source_of` writes them with the cell and sizes that are asked for.
"""

from selfexplain.spaces.standalone.write import source_of

__all__ = ["source_of"]
