"""Genotypes in the form in which each benchmark writes them.

nasbench201   |nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|
darts         Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=...)
"""

import ast
import re
from typing import Any

from selfexplain.errors import InputError
from selfexplain.records import escaped
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype

LONGEST = 20_000
"""Letters of a text; a genotype has fewer than a thousand."""
FORMS = "|op~0|+|op~0|op~1|+|...| (nasbench201) or Genotype(normal=[('op', 0), ...], ...) (darts)"


def to_string(genotype: Genotype) -> str:
    """Write a genotype in its benchmark's own form.

    Args:
        genotype: of any family.

    Returns:
        NAS-Bench-201's architecture string, or the Python expression of DARTS' genotypes.

    Example:
        >>> skip = Edge("skip_connect", 0)
        >>> nodes = ((skip,), (skip, Edge("none", 1)), (skip, Edge("none", 1), Edge("none", 2)))
        >>> to_string(Genotype("nasbench201", {"cell": Cell(nodes, (3,))}))
        '|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|'
    """
    if genotype.family == "nasbench201":
        nodes = (sorted(node, key=_source) for node in genotype.cells["cell"].nodes)
        return "+".join("|" + "".join(f"{name}~{source}|" for name, source in n) for n in nodes)
    parts = []
    for name, cell in genotype.cells.items():
        pairs = ", ".join(f"({e.operation!r}, {e.source})" for node in cell.nodes for e in node)
        concat = f"range({cell.concat[0]}, {cell.concat[-1] + 1})"
        parts.append(f"{name}=[{pairs}], {name}_concat={concat}")
    return f"Genotype({', '.join(parts)})"


def from_string(text: str) -> Genotype:
    """Read a genotype in its benchmark's own form. Nothing in the text is executed.

    Args:
        text: what `to_string` returns, or what the benchmarks and papers print; for darts also the
            whole assignment, `NAME = Genotype(...)`.

    Raises:
        InputError: the text is of neither form, or what it says is not of the family.

    Example:
        >>> cell = "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|"
        >>> to_string(from_string(cell)) == cell
        True
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise InputError(f"{_short(text)} has {len(text)} letters and is no genotype; pass {FORMS}")
    if text.startswith("|"):
        return _nasbench201(text)
    if re.match(r"(\w+\s*=\s*)?Genotype\(", text):
        return _darts(text)
    raise InputError(f"{_short(text)} is no genotype; pass {FORMS}")


def _nasbench201(text: str) -> Genotype:
    nodes = []
    for part in text.split("+"):
        edges = part.strip().strip("|").split("|")
        matches = [re.fullmatch(r"(\w{1,40})~(\d{1,9})", edge) for edge in edges]
        read = [Edge(match[1], int(match[2])) for match in matches if match]
        if len(read) < len(edges) or not re.fullmatch(r"\|.*\|", part.strip()):
            raise InputError(
                f"{_short(part)} in {_short(text)} is no node; write it as |op~0|op~1|"
            )
        nodes.append(tuple(sorted(read, key=_source)))
    return Genotype("nasbench201", {"cell": Cell(tuple(nodes), FAMILIES["nasbench201"].concat)})


def _source(edge: Edge) -> int:
    return edge.source


def _darts(text: str) -> Genotype:
    try:
        match ast.parse(text).body:
            case [
                ast.Expr(value=ast.Call(keywords=given))
                | ast.Assign(value=ast.Call(keywords=given))
            ]:
                fields = {str(keyword.arg): _literal(keyword.value) for keyword in given}
            case _:
                raise ValueError("more than one call")
        cells = {name: _darts_cell(fields, name) for name in FAMILIES["darts"].cells}
    except _UNREADABLE as error:
        raise InputError(
            f"{_short(text)} cannot be read; pass Genotype(normal=[('op', 0), ...], "
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
                raise ValueError(f"{pair} is no pair of operation and node")
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


def _short(text: str) -> str:
    return escaped(repr(text if len(text) <= 60 else text[:57] + "..."))
