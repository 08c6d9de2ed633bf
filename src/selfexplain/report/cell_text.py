"""The cells of a genotype in words, for a terminal."""

from selfexplain.spaces import FAMILIES, Genotype


def cell_text(genotype: Genotype) -> str:
    """A line for each node: the operations that enter it, and on which node each works.

    Example:
        >>> from selfexplain.spaces import from_string
        >>> print(cell_text(from_string(
        ...     "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
        ... )))
        cell, input 0, output 3
          1 = nor_conv_3x3(0)
          2 = skip_connect(1)
          3 = nor_conv_1x1(2)
    """
    rules = FAMILIES[genotype.family]
    lines = []
    for name, cell in genotype.cells.items():
        inputs = " and ".join(str(number) for number in range(rules.inputs))
        output = " | ".join(str(number) for number in cell.concat)
        title = name if len(genotype.cells) == 1 else f"{name} cell"
        lines.append(f"{title}, input{'s' * (rules.inputs > 1)} {inputs}, output {output}")
        for number, edges in enumerate(cell.nodes, start=rules.inputs):
            terms = [f"{op}({source})" for op, source in edges if op != "none"]
            lines.append(f"  {number} = {' + '.join(terms) or 'nothing'}")
    return "\n".join(lines)
