"""Genotypes in files, as JSON that people can read, and the published ones."""

import difflib
import json
from importlib import resources
from pathlib import Path

from selfexplain.errors import InputError
from selfexplain.records import escaped, parse_json, read_text
from selfexplain.spaces.genotype import Genotype
from selfexplain.spaces.json_form import from_plain, to_json
from selfexplain.spaces.strings import from_string
from selfexplain.writing import atomic_file

PUBLISHED = "published:"
LONGEST = 200
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
            f"{str(spec)[:LONGEST]} is a {genotype.family} genotype; pass one of the family "
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
    if spec.lstrip().startswith("|") or "Genotype(" in spec:
        return from_string(spec)
    shown = spec if len(spec) <= LONGEST else f"{spec[: LONGEST - 3]}..."
    try:
        text = read_text(Path(spec), "pass the path of a genotype file")
    except InputError as error:
        raise InputError(
            f"{escaped(shown)!r} is no genotype that can be read; pass the path of a genotype "
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
            f"{spec} is no complete JSON ({error}); pass a file that save_genotype wrote"
        ) from error
    return from_plain(data, spec)


def _published(name: str) -> Genotype:
    known = published_genotypes()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise InputError(
        f"there is no published genotype {escaped(name[:LONGEST])!r}{hint}; pass one of "
        f"{', '.join(known)}"
    )
