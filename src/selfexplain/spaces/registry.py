"""The spaces of the library: cells, texts and limits; what builds them is imported on demand.

nasbench201   |nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|
tiny201       |nor_conv_3x3~0|+|none~0|skip_connect~1|
darts         Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=...)
pcdarts       searches cells of darts
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import InputError
from selfexplain.records import quoted
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype
from selfexplain.spaces.space import CellRules, Form, SearchSpace, Size, register_space

if TYPE_CHECKING:
    from torch import nn

    from selfexplain.spaces.supernet import Supernet

SOURCES = Path(__file__).with_name("standalone")

# NAS-Bench-201 (Dong and Yang, ICLR 2020).


def _nasbench201_text(genotype: Genotype) -> str:
    nodes = (sorted(node, key=_source) for node in genotype.cells["cell"].nodes)
    return "+".join("|" + "".join(f"{name}~{source}|" for name, source in n) for n in nodes)


def _nasbench201_genotype(text: str, family: str = "nasbench201") -> Genotype:
    nodes = []
    for part in text.split("+"):
        edges = part.strip().strip("|").split("|")
        matches = [re.fullmatch(r"(\w{1,40})~(\d{1,9})", edge) for edge in edges]
        read = [Edge(match[1], int(match[2])) for match in matches if match]
        if len(read) < len(edges) or not re.fullmatch(r"\|.*\|", part.strip()):
            raise InputError(
                f"{quoted(part)} in {quoted(text)} is not a node; write it as |op~0|op~1|"
            )
        nodes.append(tuple(sorted(read, key=_source)))
    return Genotype(family, {"cell": Cell(tuple(nodes), FAMILIES[family].concat)})


def _source(edge: Edge) -> int:
    return edge.source


def _nasbench201_supernet(
    *, image_size: int, family: str = "nasbench201", **sizes: int
) -> Supernet:
    from selfexplain.spaces.nasbench201 import NASBench201Supernet

    del image_size  # it is built in one way for all
    return NASBench201Supernet(family=family, **sizes)


def _nasbench201_network(genotype: Genotype, **sizes: Any) -> nn.Module:
    from selfexplain.spaces.nasbench201 import derived_network

    return derived_network(genotype, **sizes)


NASBENCH201 = SearchSpace(
    name="nasbench201",
    family="nasbench201",
    rules=CellRules(
        cells=("cell",),
        inputs=1,
        nodes=3,
        operations=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
        edges_per_node=None,
        concat=(3,),
    ),
    to_string=_nasbench201_text,
    from_string=_nasbench201_genotype,
    text_pattern=r"\A\s*\|(?![^+]*\+[^+]*\Z)",
    text_example="|op~0|+|op~0|op~1|+|...|",
    supernet=_nasbench201_supernet,
    network=_nasbench201_network,
    halvings=lambda cells, form: 2,
    supernet_cells=5,
    sizes={"small": Size(channels=16, cells=5)},
    source=SOURCES / "nasbench201_network.py",
)

# Its sub-space without the last node: 125 cells, which a laptop can train one and all.

TINY201 = replace(
    NASBENCH201,
    name="tiny201",
    family="tiny201",
    rules=replace(NASBENCH201.rules, nodes=2, concat=(2,)),
    from_string=partial(_nasbench201_genotype, family="tiny201"),
    text_pattern=r"\A\s*\|[^+]*\+[^+]*\Z",
    text_example="|op~0|+|op~0|op~1|",
    supernet=partial(_nasbench201_supernet, family="tiny201"),
    supernet_cells=1,
    sizes={"small": Size(channels=8, cells=1)},
)

# DARTS (Liu, Simonyan, Yang, ICLR 2019).


def _darts_text(genotype: Genotype) -> str:
    parts = []
    for name, cell in genotype.cells.items():
        pairs = ", ".join(f"({e.operation!r}, {e.source})" for node in cell.nodes for e in node)
        concat = f"range({cell.concat[0]}, {cell.concat[-1] + 1})"
        parts.append(f"{name}=[{pairs}], {name}_concat={concat}")
    return f"Genotype({', '.join(parts)})"


def _darts_genotype(text: str) -> Genotype:
    try:
        match ast.parse(text).body:
            case [
                ast.Expr(value=ast.Call(keywords=given))
                | ast.Assign(value=ast.Call(keywords=given))
            ]:
                fields = {str(keyword.arg): _literal(keyword.value) for keyword in given}
            case _:
                raise ValueError("more than one call")
        cells = {name: _darts_cell(fields, name) for name in DARTS.rules.cells}
    except _UNREADABLE as error:
        raise InputError(
            f"{quoted(text)} cannot be read; pass Genotype(normal=[('op', 0), ...], "
            "normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
        ) from error
    return Genotype("darts", cells)


_UNREADABLE = (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError)
"""What Python's parser and what it made of the text may raise."""


def _darts_cell(fields: dict[str, list[Any]], name: str) -> Cell:
    edges = []
    for pair in fields[name]:
        match pair:
            case (str(operation), int(source)) if _is_node(source):
                edges.append(Edge(operation, source))
            case _:
                raise ValueError(f"{pair} is not a pair of operation and node")
    nodes = tuple(tuple(edges[start : start + 2]) for start in range(0, len(edges), 2))
    concat = fields[f"{name}_concat"]
    if not all(map(_is_node, concat)):
        raise ValueError("what is concatenated are no nodes")
    return Cell(nodes, tuple(concat))


def _is_node(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1000


def _literal(node: ast.expr) -> list[Any]:
    """A list of literals, or a call of range with two numbers."""
    match node:
        case ast.Call(func=ast.Name(id="range"), args=[low, high]):
            # cut off, so that a range of millions of nodes is refused without being written out
            return list(range(ast.literal_eval(low), ast.literal_eval(high))[:99])
        case _:
            return list(ast.literal_eval(node))


def _darts_supernet(**sizes: Any) -> Supernet:
    from selfexplain.spaces.darts import DARTSSupernet

    return DARTSSupernet(**sizes)


def _darts_network(genotype: Genotype, **sizes: Any) -> nn.Module:
    from selfexplain.spaces.darts import derived_network

    return derived_network(genotype, **sizes)


def _darts_halvings(cells: int, form: Form) -> int:
    from selfexplain.spaces.darts import STEMS, reductions

    return STEMS[form].halvings + len(reductions(cells))


DARTS = SearchSpace(
    name="darts",
    family="darts",
    rules=CellRules(
        cells=("normal", "reduce"),
        inputs=2,
        nodes=4,
        operations=(
            "none",
            "max_pool_3x3",
            "avg_pool_3x3",
            "skip_connect",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "dil_conv_3x3",
            "dil_conv_5x5",
        ),
        edges_per_node=2,
        concat=(2, 3, 4, 5),
    ),
    to_string=_darts_text,
    from_string=_darts_genotype,
    text_pattern=r"(\w+\s*=\s*)?Genotype\(",
    text_example="Genotype(normal=[('op', 0), ...], ...)",
    supernet=_darts_supernet,
    network=_darts_network,
    halvings=_darts_halvings,
    supernet_cells=8,
    sizes={"small": Size(channels=36, cells=20), "imagenet": Size(channels=48, cells=14)},
    channel_unit=2,
    fewest_cells=3,
    with_fewer_cells="has only reduction cells",
    auxiliary=True,
    source=SOURCES / "darts_network.py",
)

# PC-DARTS (Xu et al., ICLR 2020).


def _pcdarts_supernet(**sizes: Any) -> Supernet:
    from selfexplain.spaces.darts import PCDARTSSupernet

    return PCDARTSSupernet(**sizes)


PCDARTS = replace(DARTS, name="pcdarts", supernet=_pcdarts_supernet, channel_unit=8)

for _space in (NASBENCH201, TINY201, DARTS, PCDARTS):
    register_space(_space)
