"""What selfexplain and each of its extras install, and how large it is: a table in Markdown.

    python studies/installed_sizes.py [FOLDER ...]

It reads what pip has recorded of the packages in the running environment, and in further folders
(`pip install --target FOLDER`). Packages that an extra brings and others bring too are counted for
each, less those of selfexplain alone. An extra of which a package is missing is left out.
"""

import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "selfexplain"
NO_EXTRAS = frozenset(("dev", "docs", "bench"))
"""Of those who work on selfexplain, not of those who use it."""

Installed = Mapping[str, Distribution]


def installed(folders: Iterable[str]) -> dict[str, Distribution]:
    """The packages in some folders, by normalised name; the first one found counts."""
    found: dict[str, Distribution] = {}
    for each in distributions(path=list(folders)):
        found.setdefault(canonicalize_name(each.metadata["Name"]), each)
    return found


def needed(name: str, extras: Iterable[str], there: Installed) -> set[str]:
    """A package and all that it needs here, with these extras of its own.

    Raises:
        KeyError: one of them is not installed.
    """
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        package, wanted = one
        for line in there[package].requires or ():
            need = Requirement(line)
            told = [{"extra": extra} for extra in ("", *wanted)]
            if need.marker is None or any(need.marker.evaluate(each) for each in told):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {package for package, _ in found}


def megabytes(packages: Iterable[str], there: Installed) -> float:
    """Size of the files that pip recorded of packages; of an editable one, hardly any."""
    sizes = [
        path.stat().st_size
        for package in packages
        for file in there[package].files or ()
        if (path := Path(str(file.locate()))).is_file()
    ]
    return sum(sizes) / 1e6


def table(there: Installed) -> str:
    """The table: a row for selfexplain, and one for what each extra adds."""
    base = needed(OURS, (), there)
    rows = [("none", base, len(base))]
    for extra in sorted(there[OURS].metadata.get_all("Provides-Extra") or ()):
        if extra in NO_EXTRAS:
            continue
        try:
            more = needed(OURS, (extra,), there) - base
        except KeyError:
            continue
        rows.append((f"`{extra}`", more, len(more)))
    lines = ["| extra | packages | MB | the largest |", "| --- | ---: | ---: | --- |"]
    for name, packages, count in rows:
        by_size = sorted(packages, key=lambda each: -megabytes([each], there))
        largest = ", ".join(f"{each} {megabytes([each], there):.0f}" for each in by_size[:3])
        lines.append(f"| {name} | {count} | {megabytes(packages, there):.0f} | {largest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(installed([*sys.path, *sys.argv[1:]])))
