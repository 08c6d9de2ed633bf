"""The sections of a report on a search, or on the same search with several seeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

from selfexplain.errors import InputError
from selfexplain.recipes.read_records import (
    LOOKUPS,
    SEARCHES,
    read_search_lines,
    read_search_result,
    read_search_run,
)
from selfexplain.records import printable
from selfexplain.report.html import Section, paragraph
from selfexplain.report.search_sections import (
    Album,
    Explained,
    SearchRecord,
    lookups_table,
    search_parts,
    search_style,
    seeds_table,
)
from selfexplain.training.files import read_json, read_shaped
from selfexplain.training.log import EpochLog


def holds_search(folder: Path) -> bool:
    """Whether a folder is that of a search, or of searches with several seeds.

    Example:
        >>> holds_search(Path("absent"))
        False
    """
    if _holds_seeds(folder):
        return True
    path = folder / "run.json"
    return path.exists() and _is_search(path)


def search_sections(folder: Path) -> list[Section]:
    """What a page shows of a search: finished or not, of any version.

    Args:
        folder: of `selfexplain search`; with --seeds, a section for each seed follows the table of
            all. `lookup.json` in it (`selfexplain lookup --out`) is shown, too.

    Raises:
        InputError: the folder holds no search, or a file of it cannot be read.

    Example:
        >>> import tempfile
        >>> from selfexplain.recipes.options import DataOptions
        >>> from selfexplain.recipes.search import run_search
        >>> from selfexplain.recipes.search_options import SearchConfig
        >>> out = Path(tempfile.mkdtemp()) / "s"
        >>> _ = run_search(SearchConfig(data=DataOptions(data="digits"), method="random", out=out))
        >>> [section.title for section in search_sections(out)]
        ['Search', 'Cell']
    """
    if not holds_search(folder):
        raise InputError(f"{folder} holds no search; pass the folder of selfexplain search")
    if _holds_seeds(folder):
        sections = _sections_of_seeds(folder)
    else:
        sections = search_parts(read_search(folder), mark=_mark(folder))
    first = sections[0]
    return [replace(first, body=search_style() + first.body), *sections[1:]]


def read_search(folder: Path) -> SearchRecord:
    """Read what one search left so far.

    Raises:
        InputError: a file of it cannot be read.

    Example:
        >>> read_search(Path("absent"))
        Traceback (most recent call last):
        selfexplain.errors.InputError: there is no file absent/run.json; pass the folder of a run
    """
    run = printable(read_search_run(folder / "run.json"))
    config, images = run["config"], run.get("images", {})
    history = read_search_lines(EpochLog(folder, name="search.jsonl"), config["space"])
    done = folder / "result.json"
    return SearchRecord(
        config=config,
        train_images=images.get("train"),
        history=tuple(printable(history)),
        result=printable(read_search_result(done)) if done.exists() else None,
        album=_album(folder / "album", images.get("class_names"), len(history)),
        lookups=_lookups(folder),
    )


def _is_search(run_json: Path) -> bool:
    config = read_json(run_json).get("config")
    return isinstance(config, dict) and {"space", "rates"} <= set(config)


def _holds_seeds(folder: Path) -> bool:
    return (folder / "searches.json").exists() or bool(_seeds(folder))


def _seeds(folder: Path) -> list[int]:
    """The seeds that a search has been begun with."""
    found = {path.parent.name[4:]: path for path in folder.glob("seed*/run.json")}
    return sorted(int(seed) for seed in found if seed.isdecimal() and _is_search(found[seed]))


def _sections_of_seeds(folder: Path) -> list[Section]:
    done, lookups = folder / "searches.json", _lookups(folder)
    body = paragraph("Not all of these searches are finished.")
    if done.exists():
        body = seeds_table(printable(read_json(done, SEARCHES)))
    if lookups:
        body += f"<h3>Lookup</h3>{lookups_table(lookups)}"
    return [Section("Searches", body), *(_section_of(folder, seed) for seed in _seeds(folder))]


def _section_of(folder: Path, seed: int) -> Section:
    """All parts of one seed's search."""
    one = folder / f"seed{seed}"
    parts = search_parts(read_search(one), mark=_mark(one))
    return Section(f"Seed {seed}", "".join(f"<h3>{part.title}</h3>{part.body}" for part in parts))


def _mark(folder: Path) -> str:
    """Begins the ids of a search's drawings, in a page that may show several."""
    return f"cell-{crc32(str(folder).encode()):08x}"


def _album(folder: Path, class_names: list[str] | None, epochs: int) -> Album | None:
    """What was recorded of the logged epochs: a later one was cut off."""
    if not (folder / "images.safetensors").exists():
        return None
    path = folder / "images.safetensors"
    images = read_shaped(path, {"images": "uint8 BCHW", "labels": "int B"})
    sizes = dict(zip("BCHW", images["images"].shape, strict=True))
    found = {}
    for epoch in range(1, epochs + 1):
        path = folder / f"epoch-{epoch:04d}.safetensors"
        if path.exists():
            shapes = {"delta": "float BCHW", "explained": "float BCHW"}
            tensors = read_shaped(path, shapes, sizes)
            found[epoch] = Explained(
                delta_BCHW=tensors["delta"].numpy(), explained_BCHW=tensors["explained"].numpy()
            )
    names = class_names or []
    labels = [
        names[label] if 0 <= label < len(names) else str(label)
        for label in images["labels"].tolist()
    ]
    return Album(images_BCHW=images["images"].numpy(), labels=tuple(labels), epochs=found)


def _lookups(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "lookup.json"
    return tuple(printable(read_json(path, LOOKUPS)["cells"])) if path.exists() else ()
