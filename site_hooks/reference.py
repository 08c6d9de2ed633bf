"""The API reference: a page for each package, made of its `__all__`.

A method's class is shown below the method's own page, and only named on that of its package.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CLASS_LINE = re.compile(r"^(?:\| class \||Class(?:es)?:)(.*)$", re.MULTILINE)
"""The line of a method page that names its classes."""
NAME = re.compile(r"`(selfexplain(?:\.\w+)+)")
WITHOUT_ALL = {
    "adapters": ("lightning", "huggingface", "timm", "timm_script"),
    "experiments": (
        "fit.train.run_training",
        "compare.compare.run_comparison",
        "compare.study_kd.run_study",
        "search.run.run_search",
        "search.run.run_searches",
        "explain.explain.load_run",
        "explain.explain.explain_images",
        "explain.evaluate.evaluate_explanations",
        "export.export_run",
        "report.write_report",
        "search.lookup.run_lookup",
        "objectives.build_objective",
        "compare.grid.run_all",
        "options",
        "search_options",
        "reading_options",
    ),
    "objectives": ("options",),
}
"""What else is for users: of packages whose `__init__` imports nothing, and beside `__all__`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the API to those of docs/."""
    root = Path(config.config_file_path).parent
    pages = pages_of_methods(root / "docs" / "methods")
    for uri, text in reference_pages(root / "src" / "selfexplain", pages).items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the documentation of a method's classes below its page."""
    if not page.file.src_uri.startswith("methods/"):
        return markdown
    blocks = [f"::: {name}\n    options:\n      heading_level: 3" for name in classes_of(markdown)]
    return "\n\n".join([markdown, *(["## API"] if blocks else []), *blocks])


def classes_of(markdown: str) -> list[str]:
    """Full names of the classes that a method page is about.

    Example:
        >>> classes_of("| class | `selfexplain.objectives.KD` |")
        ['selfexplain.objectives.KD']
    """
    return [name for line in CLASS_LINE.findall(markdown) for name in NAME.findall(line)]


def pages_of_methods(folder: Path) -> dict[str, str]:
    """Full name of a class -> name of the method page that shows it."""
    return {
        name: path.name
        for path in sorted(folder.glob("*.md"))
        for name in classes_of(path.read_text())
    }


def exports(init: Path) -> dict[str, str]:
    """Name in the `__all__` of a package's `__init__` -> the module that it comes from."""
    package = ".".join(init.parent.parts[init.parent.parts.index("selfexplain") :])
    origin: dict[str, str] = {}
    names: list[str] = []
    for node in ast.walk(ast.parse(init.read_text())):  # imports within functions, too
        match node:
            case ast.ImportFrom(module=module, level=level):
                start = f"{package}." if level else ""
                origin |= {alias.asname or alias.name: f"{start}{module}" for alias in node.names}
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names = ast.literal_eval(value)
    return {name: origin.get(name, package) for name in names}


def reference_pages(source: Path, methods: dict[str, str]) -> dict[str, str]:
    """Name of a page of the reference -> its Markdown, for every package under `source`."""
    packages = {
        _name_of(init, source): exports(init) for init in sorted(source.rglob("__init__.py"))
    }
    pages = {
        f"api/{package}.md": _page(package, names, set(packages), methods)
        for package, names in packages.items()
        if names
    }
    for package, members in WITHOUT_ALL.items():
        blocks = [f"::: selfexplain.{package}.{member}" for member in members]
        page = f"api/{package}.md"
        pages[page] = "\n\n".join([pages.get(page) or _head(package), *blocks])
    pages["api/index.md"] = _index(pages)
    return pages


def _name_of(init: Path, source: Path) -> str:
    return ".".join(init.parent.relative_to(source).parts) or "selfexplain"


def _full(package: str) -> str:
    return package if package == "selfexplain" else f"selfexplain.{package}"


def _head(package: str) -> str:
    """A title, and the docstring of the package's `__init__`."""
    options = "    options:\n      members: false\n      show_root_heading: false"
    return (
        f"# {_full(package)}\n\n::: {_full(package)}\n{options}\n      show_root_toc_entry: false"
    )


def _page(package: str, names: dict[str, str], packages: set[str], methods: dict[str, str]) -> str:
    elsewhere, here = [], []
    for name in sorted(names, key=str.lower):
        full, origin = f"{_full(package)}.{name}", names[name]
        other = origin.removeprefix("selfexplain.")
        if page := methods.get(full) or methods.get(f"{origin}.{name}"):
            elsewhere.append(f"| `{name}` | [methods/{page}](../methods/{page}) |")
        elif other in packages and other != package:
            elsewhere.append(f"| `{name}` | [{origin}]({other}.md) |")
        else:
            here.append(f"::: {origin}.{name}")
    table = ["| name | where it is described |\n| --- | --- |\n" + "\n".join(elsewhere)]
    return "\n\n".join([_head(package), *(table if elsewhere else []), *here])


def _index(pages: dict[str, str]) -> str:
    rows = [f"- [{_full(Path(uri).stem)}]({Path(uri).name})" for uri in sorted(pages)]
    text = "A page for each package, with all that its `__all__` names."
    return "\n\n".join(["# API reference", text, "\n".join(rows)])
