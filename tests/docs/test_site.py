"""What the hooks of the site do to pages, and that every package and method has its page."""

import ast
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from site_hooks.examples import with_examples
from site_hooks.mathml import with_mathml
from site_hooks.offline import on_post_build, remote_in_css, remote_in_html
from site_hooks.reference import WITHOUT_ALL, classes_of, pages_of_methods, reference_pages
from site_hooks.repository import (
    edit_address,
    linked_paths,
    page_of,
    repository_path,
    resolved,
    site_uri,
    with_links,
)

from selfexplain.experiments.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "selfexplain"


def nav_pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in nav_pages(value)]


@pytest.fixture(scope="module")
def navigation() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text()
    return nav_pages(yaml.safe_load(text)["nav"])


def test_every_page_of_docs_is_in_the_navigation_once(navigation: list[str]) -> None:
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert written <= set(navigation)
    assert len(navigation) == len(set(navigation))


def test_every_package_with_exports_has_a_page_that_shows_or_names_them_all(
    navigation: list[str],
) -> None:
    pages = reference_pages(SOURCE, pages_of_methods(DOCS / "methods"))
    assert set(pages) == {page for page in navigation if page.startswith("api/")}
    for init in SOURCE.rglob("__init__.py"):
        module = ".".join(("selfexplain", *init.parent.relative_to(SOURCE).parts))
        package = module.removeprefix("selfexplain.")
        for name in getattr(__import__(module, fromlist=["*"]), "__all__", ()):
            page = pages[f"api/{package}.md"]
            shown = re.search(rf"^::: selfexplain\.[\w.]*\.{name}$", page, flags=re.MULTILINE)
            assert bool(shown) != (f"| `{name}` |" in page), (module, name)


def test_what_is_shown_of_packages_without_exports_exists() -> None:
    for package, members in WITHOUT_ALL.items():
        for member in members:
            path = SOURCE.joinpath(package, *member.split("."))
            file, name = path.with_suffix(".py"), ""
            if not file.exists():
                file, name = path.parent.with_suffix(".py"), path.name
            tree = ast.parse(file.read_text())
            assert not name or name in {getattr(node, "name", "") for node in tree.body}, member


def test_the_page_of_every_objective_shows_its_class() -> None:
    pages = pages_of_methods(DOCS / "methods")
    for name, objective in OBJECTIVES.items():
        package = objective.__module__.rpartition(".")[0]
        assert pages[f"{package}.{objective.__name__}"] == f"{name}.md"
    for path in pages:
        module, _, name = path.rpartition(".")
        assert hasattr(__import__(module, fromlist=["*"]), name), path


def test_classes_are_read_from_rows_and_lines() -> None:
    text = (
        "`selfexplain.a.No`\n| class | `selfexplain.b.One(x)`, `peers` |\nClass: `selfexplain.Two`"
    )
    assert classes_of(text) == ["selfexplain.b.One", "selfexplain.Two"]


def test_formulas_become_mathml() -> None:
    page = (
        r'<p><span class="arithmatex">\(a &lt; \frac{b}{2}\)</span> and</p>'
        r'<div class="arithmatex">\[\begin{align*} x &amp;= 1 \\ y &amp;= 2 \end{align*}\]</div>'
    )
    made = with_mathml(page)
    inline, block = re.findall(r"<math.*?</math>", made, flags=re.DOTALL)
    assert ElementTree.fromstring(inline).get("display") == "inline"
    assert ElementTree.fromstring(block).get("display") == "block"
    assert ElementTree.fromstring(inline)[0][1].text == "<"
    assert "<mfrac>" in inline
    assert block.count("<mtr>") == 2
    assert "arithmatex" not in made


def test_a_prime_is_no_superscript() -> None:
    made = with_mathml("""<span class="arithmatex">\\(W' + x^{2}\\)</span>""")
    w, _, x = ElementTree.fromstring(made)[0]
    assert [part.text for part in w] == ["W", "\u2032"]
    assert x.tag.endswith("msup")


def test_a_formula_that_is_not_understood_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mkdocs.hooks.mathml"):
        with_mathml(r'<span class="arithmatex">\(\nosuchcommand{x}\)</span>')
    assert r"this formula: \nosuchcommand{x}" in caplog.text


def test_only_relative_links_in_text_are_changed() -> None:
    text = (
        "[a](b.md#c) ![d](../e.png)\n```python\nx[0](y)\n```\n[f](#g) [h](https://i) [j](mailto:k)"
    )
    assert with_links(text, lambda target: f"<{target}>") == (
        "[a](<b.md>#c) ![d](<../e.png>)\n```python\nx[0](y)\n```\n"
        "[f](#g) [h](https://i) [j](mailto:k)"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {
        "docs/index.md": "[t](../results/t/table.md) [code](../src/a.py) [all](../results)",
        "docs/results.md": "[b](../results/bare) [i](index.md)",
        "results/r/README.md": "[run](run.sh)",
        "results/r/run.sh": "true\n",
        "results/t/table.md": "[r](../r)",
        "results/bare/numbers.json": "{}",
        "src/a.py": "a = 1\n",
        "src/unlinked.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_is_linked_directly_or_through_pages_is_on_the_site(repository: Path) -> None:
    uris = {site_uri(path, repository) for path in linked_paths(repository)}
    assert uris == {
        "results.md",
        "results/bare/index.md",
        "results/bare/numbers.json.md",
        "results/r/README.md",
        "results/r/run.sh.md",
        "results/t/table.md",
        "source/src/a.py.md",
    }


def test_a_page_of_the_site_leads_back_to_its_file(repository: Path) -> None:
    for path in linked_paths(repository):
        if path != repository / "results":  # its page is written by hand
            assert repository_path(site_uri(path, repository), repository) == path


def test_a_folder_is_its_readme_or_a_list_of_its_files(repository: Path) -> None:
    page = repository / "results" / "t" / "table.md"
    assert resolved(page, "../r") == repository / "results" / "r" / "README.md"
    bare = page_of(repository / "results" / "bare", repository)
    assert bare.endswith("# results/bare\n\n- [numbers.json](numbers.json)\n")
    assert page_of(repository / "src" / "a.py", repository).endswith(
        "# src/a.py\n\n~~~~python\na = 1\n~~~~\n"
    )


def test_headings_of_examples_alone_are_renamed() -> None:
    text = "Do.\n\n    Example:\n        >>> 1\n    Example: no heading"
    assert with_examples(text) == text.replace("Example:\n", "Examples:\n")


@pytest.mark.parametrize(
    "loads",
    [
        '<script src="https://a.org/b.js"></script>',
        '<link rel="stylesheet" href="//a.org/b.css">',
        '<img src="http://a.org/b.png">',
        '<img srcset="https://a.org/b.png 2x">',
        '<p style="background: url(https://a.org/b.png)">',
        '<style>@import "https://a.org/b.css";</style>',
        '<pre class="mermaid">',
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(loads: str) -> None:
    assert len(remote_in_html(f"<html>{loads}</html>")) == 1


def test_what_a_page_has_itself_or_links_to_is_left_alone() -> None:
    assert remote_in_html('<a href="https://a.org">a</a><script src="../b.js"></script>') == []
    assert remote_in_html("<style>p { background: url(data:image/png;base64,x) }</style>") == []
    assert remote_in_css("@import url(b.css); /* https://a.org */") == []


def test_a_site_that_loads_from_elsewhere_warns_with_the_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "page.html").write_text('<script src="https://a.org/b.js"></script>')
    with caplog.at_level(logging.WARNING, logger="mkdocs.hooks.offline"):
        on_post_build(SimpleNamespace(site_dir=str(tmp_path)))  # type: ignore[arg-type]
    assert "page.html loads https://a.org/b.js" in caplog.text


def test_a_page_is_edited_where_its_source_is(repository: Path) -> None:
    """Pages that stand for a folder, or that a hook wrote, have no source to edit."""
    page = next((repository / "docs").rglob("*.md"))
    address = f"https://a.org/b/edit/main/{page.relative_to(repository).as_posix()}"
    assert edit_address("https://a.org/b", page, repository) == address
    assert edit_address("https://a.org/b", repository / "docs", repository) is None
    assert edit_address("https://a.org/b", repository / "absent.md", repository) is None
    assert edit_address(None, page, repository) is None


def test_the_script_for_search_from_disk_is_the_one_that_the_theme_looks_for() -> None:
    """By its name: without one the theme's plugin has another fetched, from elsewhere."""
    [script] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["extra"]["polyfills"]
    assert "iframe-worker" in script
    assert (DOCS / script).exists()


def test_linked_tables_are_copied_and_not_shown_as_text() -> None:
    linked = [path for path in linked_paths(ROOT) if path.suffix == ".parquet"]
    assert linked
    assert all(site_uri(path, ROOT).endswith(".parquet") for path in linked)
