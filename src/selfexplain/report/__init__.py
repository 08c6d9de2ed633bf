"""What people see: tables, pictures, progress."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.report.cell_drawing import cell_svg
    from selfexplain.report.cell_text import cell_text
    from selfexplain.report.cost_plot import cost_figure
    from selfexplain.report.names import told_apart
    from selfexplain.report.pareto import pareto_front
    from selfexplain.report.picture import explanation_figure, save_figure
    from selfexplain.report.progress import progress_bar
    from selfexplain.report.quality_table import quality_table
    from selfexplain.report.search_plot import architecture_figure
    from selfexplain.report.searches_table import searches_table
    from selfexplain.report.study import study_figure, study_markdown, study_table
    from selfexplain.report.sweep_table import sweep_progress
    from selfexplain.report.table import comparison_markdown, comparison_table

__all__ = [
    "architecture_figure",
    "cell_svg",
    "cell_text",
    "comparison_markdown",
    "comparison_table",
    "cost_figure",
    "explanation_figure",
    "pareto_front",
    "progress_bar",
    "quality_table",
    "save_figure",
    "searches_table",
    "study_figure",
    "study_markdown",
    "study_table",
    "sweep_progress",
    "told_apart",
]

lazily(
    __name__,
    {
        "cell_drawing": "cell_svg",
        "cell_text": "cell_text",
        "cost_plot": "cost_figure",
        "names": "told_apart",
        "pareto": "pareto_front",
        "picture": "explanation_figure save_figure",
        "progress": "progress_bar",
        "quality_table": "quality_table",
        "search_plot": "architecture_figure",
        "searches_table": "searches_table",
        "study": "study_figure study_markdown study_table",
        "sweep_table": "sweep_progress",
        "table": "comparison_markdown comparison_table",
    },
)
