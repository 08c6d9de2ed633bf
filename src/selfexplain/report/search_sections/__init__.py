"""The sections of a report on a search, one idea a file: functions of what a search left."""

from selfexplain.report.search_sections.parts import search_parts, search_style
from selfexplain.report.search_sections.record import Album, Explained, SearchRecord
from selfexplain.report.search_sections.tables import lookups_table, seeds_table

__all__ = [
    "Album",
    "Explained",
    "SearchRecord",
    "lookups_table",
    "search_parts",
    "search_style",
    "seeds_table",
]
