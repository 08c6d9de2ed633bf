"""Accuracy against cost."""

from typing import Any

from selfexplain.report.cost_plot import cost_figure
from selfexplain.report.html import Section, figure, paragraph, scroll
from selfexplain.report.pareto import pareto_front

FEW = 6
"""Names of so many methods fit a phone's width."""


def cost_section(results: dict[str, Any]) -> Section:
    """What each objective costs and how accurate it is, the Pareto front marked.

    Args:
        results: what `results.json` holds.

    Example:
        >>> row = {"objective": "standard", "accuracy_mean": 90.0, "accuracy_std": None, "cost": 1}
        >>> "standard: cost 1.00, accuracy 90.00 %" in cost_section({"summary": [row]}).body
        True
    """
    summary = results["summary"]
    names = [row["objective"] for row in summary]
    key = "total_cost" if all("total_cost" in row for row in summary) else "cost"
    front = pareto_front([row[key] for row in summary], [row["accuracy_mean"] for row in summary])
    told = ", ".join(names[i] for i in front)
    points = "; ".join(
        f"{row['objective']}: cost {row[key]:.2f}, accuracy {row['accuracy_mean']:.2f} %"
        for row in summary
    )
    few = len(names) <= FEW
    drawn = cost_figure(summary, size=(4.3, 3.5) if few else (7.5, 5))
    chart = figure(drawn, f"Scatter plot. {points}.")
    return Section(
        "Accuracy against cost",
        paragraph(
            f"On the Pareto front, where nothing is both cheaper and more accurate: {told}. Bars "
            "are the standard deviation over seeds."
        )
        + (chart if few else scroll(chart, "whole", "accuracy against cost")),
    )
