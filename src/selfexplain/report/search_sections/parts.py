"""All parts of a search's report, in the order in which they are read."""

from functools import cache
from importlib.resources import files

from selfexplain.report.html.line_colours import colours_css
from selfexplain.report.html.page import Section
from selfexplain.report.search_sections.album import album_part
from selfexplain.report.search_sections.cell import cell_part
from selfexplain.report.search_sections.curves import alphas_part, losses_part
from selfexplain.report.search_sections.record import SearchRecord
from selfexplain.report.search_sections.tables import lookups_table, summary_table


def search_parts(record: SearchRecord, *, mark: str = "cell") -> list[Section]:
    """A section for each part that a search has.

    Args:
        record: of the search.
        mark: begins ids in the HTML; another one for each search of a page.

    Example:
        >>> skips = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
        >>> config = {"method": "random", "space": "nasbench201", "seed": 0, "epochs": 50}
        >>> result = {"genotype": skips, "skips": 1, "edges": 6, "collapsed": False, "epochs": 0}
        >>> record = SearchRecord(config=config, result=result)
        >>> [section.title for section in search_parts(record)]
        ['Search', 'Cell']
    """
    parts = [
        Section("Search", summary_table(record)),
        Section("Cell", cell_part(record, mark)),
    ]
    if record.config["method"] != "random":
        parts.append(Section("Architecture", alphas_part(record)))
        parts.append(Section("Losses", losses_part(record)))
    if record.explains:
        parts.append(Section("What the audience was shown", album_part(record)))
    if record.lookups:
        parts.append(Section("Lookup", lookups_table(record.lookups)))
    return parts


@cache
def search_style() -> str:
    """The style of the parts, once for a page.

    Example:
        >>> search_style().startswith("<style>")
        True
    """
    rules = (files("selfexplain.report.search_sections") / "search.css").read_text(encoding="utf-8")
    return f"<style>{colours_css()}\n{rules}</style>"
