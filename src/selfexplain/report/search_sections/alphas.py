"""The raw numbers of an architecture, as tables."""

from collections.abc import Sequence

from selfexplain.report.html.table import table
from selfexplain.report.search_sections.record import SearchRecord
from selfexplain.spaces import FAMILIES, from_string
from selfexplain.spaces.mixing import edges_of


def alphas_table(record: SearchRecord) -> str:
    """The raw alphas after the last epoch, folded away; with the weights of edges, if there are.

    Example:
        >>> alphas_table(SearchRecord(config={"method": "random_search"}))
        ''
    """
    if record.config["method"] == "random_search" or not record.history:
        return ""
    last = record.history[-1]
    if "alphas" not in last:
        return "<p>The raw alphas are missing: the search was made before they were recorded.</p>"
    family = from_string(last["genotype"]).family
    tables = [
        _alphas_of(name, rows, last["alphas"].get(f"{name}_edges"), family)
        for name, rows in last["alphas"].items()
        if name in FAMILIES[family].cells
    ]
    return f"<details><summary>Raw alphas at the end</summary>{''.join(tables)}</details>"


def _alphas_of(
    cell: str, rows: Sequence[Sequence[float]], edges: Sequence[float] | None, family: str
) -> str:
    header = ["edge", *FAMILIES[family].operations, *([] if edges is None else ["edge's own"])]
    body = [
        [f"{source} → {target}", *(f"{alpha:.3f}" for alpha in row)]
        for (source, target), row in zip(edges_of(family), rows, strict=True)
    ]
    for row, weight in zip(body, edges or (), strict=edges is not None):
        row.append(f"{weight:.3f}")
    name = "cell" if cell == "cell" else f"{cell} cell"
    return table(header, body, caption=f"{name}: raw alphas after the last epoch, before softmax")
