"""What people see: tables and pictures."""

from selfexplain.report.picture import explanation_figure, save_figure
from selfexplain.report.table import comparison_markdown, comparison_table

__all__ = ["comparison_markdown", "comparison_table", "explanation_figure", "save_figure"]
