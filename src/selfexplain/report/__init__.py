"""What people see: tables, pictures, progress."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.report.cell_drawing import cell_svg, cell_text
    from selfexplain.report.figures import (
        architecture_figure,
        certain_front,
        cost_figure,
        explanation_figure,
        save_figure,
        top_classes_figure,
    )
    from selfexplain.report.forest import forest_figure
    from selfexplain.report.progress import progress_bar, run_progress, sweep_progress
    from selfexplain.report.publish import Block, table
    from selfexplain.report.study import study_figure, study_markdown, study_table
    from selfexplain.report.style import disambiguate
    from selfexplain.report.tables import (
        comparison_markdown,
        comparison_table,
        quality_table,
        searches_table,
    )

__all__ = [
    "Block",
    "architecture_figure",
    "cell_svg",
    "cell_text",
    "certain_front",
    "comparison_markdown",
    "comparison_table",
    "cost_figure",
    "disambiguate",
    "explanation_figure",
    "forest_figure",
    "progress_bar",
    "quality_table",
    "run_progress",
    "save_figure",
    "searches_table",
    "study_figure",
    "study_markdown",
    "study_table",
    "sweep_progress",
    "table",
    "top_classes_figure",
]

lazily(
    __name__,
    {
        "cell_drawing": "cell_svg cell_text",
        "figures": "architecture_figure certain_front cost_figure explanation_figure save_figure "
        "top_classes_figure",
        "progress": "progress_bar run_progress sweep_progress",
        "forest": "forest_figure",
        "publish": "Block table",
        "study": "study_figure study_markdown study_table",
        "style": "disambiguate",
        "tables": "comparison_markdown comparison_table quality_table searches_table",
    },
)
