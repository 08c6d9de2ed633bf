"""Genotypes as strings and JSON, in files, and the published ones."""

import difflib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError
from selfexplain.files import DIGEST, atomic_file, is_whole, sealed
from selfexplain.records import (
    ANYTHING,
    ListOf,
    MapOf,
    Text,
    Whole,
    escaped,
    misfit,
    parse_json,
    quoted,
    read_text,
)
from selfexplain.spaces.genotype import FAMILIES, Cell, Edge, Genotype
from selfexplain.spaces.space import SPACES, families

# Genotypes in the form in which each benchmark writes them.


LONGEST_TEXT = 20_000
"""Letters of a text; a genotype has fewer than a thousand."""


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
    return SPACES[genotype.family].to_string(genotype)


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
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"{quoted(text)} has {len(text)} characters and is not a genotype; pass {_examples()}"
        )
    for space in families():
        if re.match(space.text_pattern, text):
            return space.from_string(text)
    raise InputError(f"{quoted(text)} is not a genotype; pass {_examples()}")


def _examples() -> str:
    return " or ".join(f"{space.text_example} ({space.name})" for space in families())


# Genotypes as JSON that people can read: one line a node.


LONGEST_OPERATION = 60
"""Letters of an operation; no family has longer ones."""
MOST = 20
"""Cells, nodes or edges; no family has as many."""


SHAPE = {
    "family": Text(FAMILIES),
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
    """A genotype as JSON, followed by a digest of it."""
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
    """A genotype of what was read from JSON, whatever that is."""
    if found := misfit(data, SHAPE):
        raise InputError(
            f'{where} is not a genotype ({found}); write {{"family": "darts", "cells": {{"normal": '
            '{"nodes": {"2": [["sep_conv_3x3", 0], ...], ...}, "concat": [2, 3, 4, 5]}, ...}}'
        )
    try:
        cells = {name: _cell(cell) for name, cell in data["cells"].items()}
        numbers = {name: [int(n) for n in cell["nodes"]] for name, cell in data["cells"].items()}
        genotype = Genotype(data["family"], cells)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{where} is not a genotype: {escaped(str(error))}") from error
    family = genotype.family
    rules = FAMILIES[family]
    wanted = list(range(rules.inputs, rules.inputs + rules.nodes))
    for name, given in numbers.items():
        if given != wanted:
            raise InputError(f"cell {name!r} of {where} has nodes {given}; number them {wanted}")
    if not is_whole(data):
        raise InputError(
            f"{where} is damaged: its contents do not match its SHA-256 digest; restore the file, "
            f"or delete its line {DIGEST} if you changed it yourself"
        )
    return genotype


def _cell(cell: Any) -> Cell:
    nodes = tuple(tuple(_edge(edge) for edge in node) for node in cell["nodes"].values())
    return Cell(nodes, tuple(cell["concat"]))


def _edge(edge: Any) -> Edge:
    match edge:
        case [str(operation), int(source)] if not isinstance(source, bool):
            return Edge(operation[:LONGEST_OPERATION], source)
        case _:
            raise TypeError(f"{str(edge)[:LONGEST_OPERATION]} is not an edge")


PUBLISHED = "published:"
LONGEST_SHOWN = 200
"""Letters of a spec that messages show."""


def save_genotype(path: str | Path, genotype: Genotype) -> None:
    """Write a genotype to a JSON file as a whole, one line a node; missing folders are made.

    Args:
        path: of the file.
        genotype: of any family.

    Raises:
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from selfexplain.spaces import random_genotype
        >>> genotype = random_genotype("nasbench201")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_genotype(f"{folder}/cell.json", genotype)
        ...     load_genotype(f"{folder}/cell.json") == genotype
        True
    """
    path = Path(path)
    with atomic_file(path) as file:
        file.write(to_json(genotype).encode())


def load_genotype(spec: str | Path, family: str | None = None) -> Genotype:
    """Read a genotype.

    Args:
        spec: path of a file that `save_genotype` wrote or that holds a benchmark's own form; that
            form itself (see `from_string`); or `published:NAME` for a cell from a paper.
        family: the family that is needed; None for any.

    Raises:
        InputError: nothing is found, what is found is no genotype, or it is of another family.

    Example:
        >>> load_genotype("published:DARTS_V2").cells["normal"].nodes[0]
        (Edge(operation='sep_conv_3x3', source=0), Edge(operation='sep_conv_3x3', source=1))
    """
    genotype = _load(str(spec))
    if family is not None and genotype.family != family:
        raise InputError(
            f"{str(spec)[:LONGEST_SHOWN]} is a {genotype.family} genotype; pass one of the family "
            f"{family}"
        )
    return genotype


def published_genotypes() -> dict[str, Genotype]:
    """The published cells by name; published.json says where each is from.

    Example:
        >>> sorted(published_genotypes())[:3]
        ['DARTS_V1', 'DARTS_V2', 'LeaSE_c100_darts']
    """
    text = (resources.files("selfexplain.spaces") / "published.json").read_text(encoding="utf-8")
    return {name: from_plain(data, name) for name, data in json.loads(text).items()}


def _load(spec: str) -> Genotype:
    if spec.startswith(PUBLISHED):
        return _published(spec.removeprefix(PUBLISHED))
    if any(re.search(space.text_pattern, spec) for space in families()):
        return from_string(spec)
    shown = spec if len(spec) <= LONGEST_SHOWN else f"{spec[: LONGEST_SHOWN - 3]}..."
    try:
        text = read_text(Path(spec), "pass the path of a genotype file")
    except InputError as error:
        raise InputError(
            f"{escaped(shown)!r} is not a genotype that can be read; pass the path of a genotype "
            "file, published:NAME, or a genotype as its benchmark writes it"
        ) from error
    if not text.lstrip().startswith("{"):
        try:
            return from_string(text)
        except InputError as error:
            raise InputError(f"in {spec}: {error}") from error
    try:
        data = parse_json(text)
    except ValueError as error:
        raise InputError(
            f"{spec} is not complete JSON ({error}); pass a file that save_genotype wrote"
        ) from error
    return from_plain(data, spec)


def _published(name: str) -> Genotype:
    known = published_genotypes()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise InputError(
        f"there is no published genotype {escaped(name[:LONGEST_SHOWN])!r}{hint}; pass one of "
        f"{', '.join(known)}"
    )
