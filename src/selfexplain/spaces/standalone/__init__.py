"""Networks of genotypes as single files of plain PyTorch that need nothing of this library.

`nasbench201_network.py` and `darts_network.py` are such files, each with a cell of its own as an
example; `source_of` writes them with the cell and sizes that are asked for.

No other network is written twice: supernets and derived networks share stems, macro skeletons and
operations, which have what a file of plain PyTorch is to be free of (mixing, drop-path, faster
gradients on a CPU). `tests/spaces/test_standalone.py` holds both to the same bits.
"""

from selfexplain.spaces.standalone.write import source_of

__all__ = ["source_of"]
