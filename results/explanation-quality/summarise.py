"""Write table.md: each metric's mean over seeds, and its difference to the first run's, paired."""

import json
from pathlib import Path

from selfexplain.evaluation import paired_difference

HERE = Path(__file__).parent
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


def main() -> None:
    """Read seed*.json; every file has the same objectives in the same order."""
    means: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    files = sorted(HERE.glob("seed*.json"))
    for file in files:
        for row in json.loads(file.read_text())["rows"]:
            objective = Path(row["run"]).name.rpartition("-seed")[0]
            key = row["kind"] or "model", row["metric"], ARROWS[row["better"]]
            means.setdefault(key, {}).setdefault(objective, []).append(row["mean"])
    names = list(next(iter(means.values())))
    lines = [
        f"| maps | metric | {' | '.join(names)} |",
        f"| --- | --- | {' | '.join(['---:'] * len(names))} |",
    ]
    for (kind, metric, arrow), of_objectives in means.items():
        cells = [cell(values, of_objectives[names[0]]) for values in of_objectives.values()]
        name = f"{metric} {arrow}".strip()
        lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"*mean over {len(files)} seeds of the mean over images; in brackets the difference to "
        f"{names[0]}, same seeds and images, ± half of its 95 % interval over seeds*",
        "",
    ]
    (HERE / "table.md").write_text("\n".join(lines))


def cell(values: list[float], baseline: list[float]) -> str:
    """A mean, and its paired difference to the baseline's."""
    text = f"{sum(values) / len(values):.3f}"
    if values is baseline:
        return text
    difference = paired_difference(values, baseline)
    assert difference.ci95 is not None, "there are several seeds"
    half = (difference.ci95[1] - difference.ci95[0]) / 2
    return f"{text} ({difference.mean:+.3f} ± {half:.3f})"


if __name__ == "__main__":
    main()
