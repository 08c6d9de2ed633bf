"""Pages of docs/ link to files of the repository; on the site those files are pages, too.

So a link works in a plain view of the repository and on the site alike. What is linked, directly or
through such a page, is added: `results/` keeps its folders, everything else lies below `source/`.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CODE = re.compile(r"(^```.*?^```|^~~~.*?^~~~)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")
"""The relative target of a Markdown link or image, without its anchor."""
LANGUAGES = {".py": "python", ".sh": "bash", ".json": "json", ".toml": "toml"}
COPIED = {".png", ".svg", ".gz", ".parquet"}
REPOSITORY = "SELFEXPLAIN_REPOSITORY"
"""Environment variable: the repository's address on the web, with which pages get edit links."""
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by mkdocs with what mkdocs.yml says: add the repository's address, if there is one."""
    address = os.environ.get(REPOSITORY, "").rstrip("/")
    config.repo_url, config.repo_name = address or None, address.rpartition("/")[2] or None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with the files of docs/: add those of the repository that are linked."""
    root = Path(config.config_file_path).parent
    for path in linked_paths(root):
        uri = site_uri(path, root)
        if path.suffix in COPIED:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        elif files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=page_of(path, root)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Called by mkdocs with each page: point its links to pages of the site."""
    root = Path(config.config_file_path).parent
    home = repository_path(page.file.src_uri, root)
    page.edit_url = edit_address(config.repo_url, home, root)

    def on_site(target: str) -> str:
        path = resolved(home, target)
        if not path.exists():  # left for mkdocs to report, or a page that another hook made
            return target
        return os.path.relpath(site_uri(path, root), Path(page.file.src_uri).parent)

    return with_links(markdown, on_site)


def edit_address(repository: str | None, path: Path, root: Path) -> str | None:
    """Where a page's source is edited on the web; None if it has none, or the address is not known.

    Example:
        >>> edit_address("https://a.org/b", Path("site_hooks/__init__.py"), Path())
        'https://a.org/b/edit/main/site_hooks/__init__.py'
    """
    if repository is None or not path.is_file():
        return None
    return f"{repository}/edit/main/{path.relative_to(root).as_posix()}"


def with_links(markdown: str, change: Callable[[str], str]) -> str:
    """The text with each relative link changed; fenced code stays as it is.

    Example:
        >>> with_links("[a](../b.py#c) and [d](https://e)", str.upper)
        '[a](../B.PY#c) and [d](https://e)'
    """
    pieces = CODE.split(markdown)  # text and code take turns
    pieces[::2] = [LINK.sub(lambda match: change(match[0]), text) for text in pieces[::2]]
    return "".join(pieces)


def linked_paths(root: Path) -> list[Path]:
    """Files and folders outside docs/ to which its pages link, directly or through one another."""
    found: dict[Path, None] = {}
    waiting = sorted((root / "docs").rglob("*.md"))
    while waiting:
        page = waiting.pop()
        for target in targets(page):
            path = resolved(page, target)
            if path.exists() and path not in found and not path.is_relative_to(root / "docs"):
                found[path] = None
                waiting += [path] if path.suffix == ".md" or path.is_dir() else []
    return list(found)


def targets(path: Path) -> list[str]:
    """The relative links of a page, or of the page that stands for a folder."""
    text = listing(path) if path.is_dir() else path.read_text()
    return [target for piece in CODE.split(text)[::2] for target in LINK.findall(piece)]


def resolved(page: Path, target: str) -> Path:
    """The file or folder that a link of a page means; a folder's README in the folder's place."""
    path = Path(os.path.normpath((page if page.is_dir() else page.parent) / target))
    return path / "README.md" if (path / "README.md").is_file() else path


def site_uri(path: Path, root: Path) -> str:
    """Where a file of the repository lies on the site, as the name of a page's source."""
    if path.is_relative_to(root / "docs"):
        return path.relative_to(root / "docs").as_posix()
    place = path.relative_to(root)
    if place == Path("results"):
        return "results.md"
    below = place if place.parts[0] == "results" else Path("source") / place
    if path.is_dir():
        return (below / "index.md").as_posix()
    stays = path.suffix in {".md", *COPIED}
    return below.as_posix() + ("" if stays else ".md")


def repository_path(uri: str, root: Path) -> Path:
    """The file or folder of the repository that a page of the site shows: `site_uri` undone."""
    if (root / "docs" / uri).exists():
        return root / "docs" / uri
    path = root / uri.removeprefix("source/")
    if path.exists():
        return path
    return path.parent if path.name == "index.md" else path.with_suffix("")


def page_of(path: Path, root: Path) -> str:
    """Markdown that shows a file or a folder of the repository."""
    if path.is_dir():
        return UNSEARCHED + f"# {path.relative_to(root)}\n\n{listing(path)}"
    if path.suffix == ".md":
        return path.read_text()
    language = LANGUAGES.get(path.suffix, "text")
    text = path.read_text().rstrip("\n")
    return UNSEARCHED + f"# {path.relative_to(root)}\n\n~~~~{language}\n{text}\n~~~~\n"


def listing(folder: Path) -> str:
    """The files of a folder as a list of links."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    return "".join(f"- [{name}]({name})\n" for name in files)
