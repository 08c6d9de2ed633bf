"""Genotypes as JSON that people can read: one line a node."""

import json
from collections.abc import Mapping
from typing import Any

from selfexplain.errors import InputError
from selfexplain.records import (
    ANYTHING,
    DIGEST,
    ListOf,
    MapOf,
    Text,
    Whole,
    escaped,
    is_whole,
    misfit,
    sealed,
)
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype

LONGEST = 60
"""Letters of an operation; no family has longer ones."""
MOST = 20
"""Cells, nodes or edges; no family has as many."""


SHAPE = {
    "family": Text(tuple(FAMILIES)),
    "cells": MapOf(
        {
            "nodes": MapOf(ListOf(ListOf(ANYTHING, 2, 2), most=MOST), most=MOST),
            "concat": ListOf(Whole(0, MOST), most=MOST),
        },
        least=1,
        most=MOST,
    ),
}
"""Of a genotype as JSON; what its family asks of it is looked at afterwards."""


def to_json(genotype: Genotype) -> str:
    """A genotype as JSON, and last a digest of what stands in it.

    Example:
        >>> skip = Edge("skip_connect", 0)
        >>> nodes = ((skip,), (skip, Edge("none", 1)), (skip, Edge("none", 1), Edge("none", 2)))
        >>> print(to_json(Genotype("nasbench201", {"cell": Cell(nodes, (3,))})), end="")
        {
          "family": "nasbench201",
          "cells": {
            "cell": {
              "nodes": {
                "1": [["skip_connect", 0]],
                "2": [["skip_connect", 0], ["none", 1]],
                "3": [["skip_connect", 0], ["none", 1], ["none", 2]]
              },
              "concat": [3]
            }
          },
          "sha256": "780a9f43ab5f2349512c14b54fa0a54810c53136aa236da1a169caf2cbeea92a"
        }
    """
    inputs = FAMILIES[genotype.family].inputs
    cells = {}
    for name, cell in genotype.cells.items():
        nodes = {str(n): json.dumps(node) for n, node in enumerate(cell.nodes, start=inputs)}
        written = {"nodes": _block(nodes, depth=3), "concat": json.dumps(cell.concat)}
        cells[name] = _block(written, depth=2)
    whole = {"family": json.dumps(genotype.family), "cells": _block(cells, depth=1)}
    digest = sealed(json.loads(_block(whole, depth=0)))[DIGEST]
    return _block({**whole, DIGEST: json.dumps(digest)}, depth=0) + "\n"


def _block(written: Mapping[str, str], depth: int) -> str:
    indent = "  " * depth
    lines = ",\n".join(f"{indent}  {json.dumps(key)}: {value}" for key, value in written.items())
    return f"{{\n{lines}\n{indent}}}"


def from_plain(data: Any, where: str) -> Genotype:
    """A genotype of what was read from JSON, whatever that is.

    Args:
        data: what `json.loads` returned.
        where: it is from, for the message.

    Raises:
        InputError: it is no genotype, or other than its digest says.

    Example:
        >>> skip = Edge("skip_connect", 0)
        >>> nodes = ((skip,), (skip, Edge("none", 1)), (skip, Edge("none", 1), Edge("none", 2)))
        >>> genotype = Genotype("nasbench201", {"cell": Cell(nodes, (3,))})
        >>> from_plain(json.loads(to_json(genotype)), "here") == genotype
        True
    """
    if found := misfit(data, SHAPE):
        raise InputError(
            f'{where} is no genotype ({found}); write {{"family": "darts", "cells": {{"normal": '
            '{"nodes": {"2": [["sep_conv_3x3", 0], ...], ...}, "concat": [2, 3, 4, 5]}, ...}}'
        )
    try:
        cells = {name: _cell(cell) for name, cell in data["cells"].items()}
        numbers = {name: [int(n) for n in cell["nodes"]] for name, cell in data["cells"].items()}
        genotype = Genotype(data["family"], cells)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{where} is no genotype: {escaped(str(error))}") from error
    family = genotype.family
    rules = FAMILIES[family]
    wanted = list(range(rules.inputs, rules.inputs + rules.nodes))
    for name, given in numbers.items():
        if given != wanted:
            raise InputError(f"cell {name!r} of {where} has nodes {given}; number them {wanted}")
    if not is_whole(data):
        raise InputError(
            f"{where} is damaged: what it holds does not match the SHA-256 digest in it; put it "
            f"back as it was, or delete its line {DIGEST} if you have changed it yourself"
        )
    return genotype


def _cell(cell: Any) -> Cell:
    nodes = tuple(tuple(_edge(edge) for edge in node) for node in cell["nodes"].values())
    return Cell(nodes, tuple(cell["concat"]))


def _edge(edge: Any) -> Edge:
    match edge:
        case [str(operation), int(source)] if not isinstance(source, bool):
            return Edge(operation[:LONGEST], source)
        case _:
            raise TypeError(f"{str(edge)[:LONGEST]} is no edge")
