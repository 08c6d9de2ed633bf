"""Genotypes written and read: round trips over random ones, and everything that is malformed."""

import json
from pathlib import Path

import pytest
import torch

from selfexplain.errors import InputError
from selfexplain.spaces import (
    FAMILIES,
    Genotype,
    from_string,
    load_genotype,
    published_genotypes,
    random_genotype,
    save_genotype,
    to_string,
)

NB201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
PAIRS = "[('sep_conv_3x3', 0), ('skip_connect', 1)] * 4"
DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=range(2, 6))"
)


def some(family: str, n: int = 50) -> list[Genotype]:
    generator = torch.Generator().manual_seed(0)
    return [random_genotype(family, generator) for _ in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trips(family: str, tmp_path: Path) -> None:
    for i, genotype in enumerate(some(family)):
        assert from_string(to_string(genotype)) == genotype
        save_genotype(tmp_path / "new" / f"{i}.json", genotype)
        assert load_genotype(tmp_path / "new" / f"{i}.json", family) == genotype
        (tmp_path / "own.txt").write_text(to_string(genotype) + "\n")
        assert load_genotype(tmp_path / "own.txt") == load_genotype(to_string(genotype)) == genotype


def test_random_genotypes_are_uniform() -> None:
    """Each of NAS-Bench-201's five operations on each edge; each pair of sources in darts."""
    cells = [g.cells["cell"] for g in some("nasbench201", 1000)]
    for source in range(3):
        names = [cell.nodes[2][source].operation for cell in cells]
        assert all(150 < names.count(name) < 250 for name in FAMILIES["nasbench201"].operations)
    cells = [g.cells["reduce"] for g in some("darts", 1000)]
    pairs = [tuple(edge.source for edge in cell.nodes[1]) for cell in cells]
    assert all(280 < pairs.count(pair) < 390 for pair in [(0, 1), (0, 2), (1, 2)])
    assert "none" not in {edge.operation for cell in cells for node in cell.nodes for edge in node}
    with pytest.raises(InputError, match="no cells of family"):
        random_genotype("resnet")


def test_published_cells() -> None:
    known = published_genotypes()
    assert len(known) == 10
    assert to_string(load_genotype("published:DARTS_V1")) == DARTS_V1
    assert load_genotype(f"DARTS_V1 = {DARTS_V1}") == known["DARTS_V1"]
    with pytest.raises(InputError, match=r"did you mean .*DARTS_V2"):
        load_genotype("published:DARTS")


def test_a_file_is_one_line_a_node(tmp_path: Path) -> None:
    save_genotype(tmp_path / "cell.json", from_string(NB201))
    text = (tmp_path / "cell.json").read_text()
    assert '        "2": [["none", 0], ["skip_connect", 1]],\n' in text
    assert json.loads(text)["cells"]["cell"]["concat"] == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv3x3", "is not a genotype; pass"),
        ("|nor_conv_3x3~0|", "computes 3 nodes; this one has 1"),
        (NB201.replace("nor_conv_3x3", "nor_conv_7x7"), "uses the operation 'nor_conv_7x7'"),
        (NB201.replace("~2", "~5"), "takes node 5; pass a node from 0 to 2"),
        (NB201.replace("~1", "~x"), "is not a node; write it as"),
        (NB201.removesuffix("|"), "is not a node; write it as"),
        (NB201.replace("none~0|", ""), "takes 2 edges from different nodes"),
        (DARTS_V1[:-1], "cannot be read; pass Genotype"),
        (DARTS_V1.replace("reduce=", "other="), "cannot be read"),
        (DARTS_V1.replace("range(2, 6)", "range(2, 10**9)"), "cannot be read"),
        (DARTS_V1.replace("range(2, 6)", "range(2, 1000000000)"), "concatenates nodes"),
        (DARTS_V1.replace("range(2, 6)", "[2, 3]"), r"concatenates nodes \[2, 3, 4, 5\]"),
        (DARTS_V1.replace(", ('skip_connect', 2)]", "]"), "takes 2 edges"),
        (DARTS_V1.replace("'skip_connect', 2", "'skip_connect', '2'"), "cannot be read"),
        (DARTS_V1.replace("1), ('sep_conv_3x3', 0)", "0), ('sep_conv_3x3', 0)"), "different nodes"),
        (f"Genotype(normal={PAIRS}, reduce={PAIRS})", "cannot be read"),
        ("Genotype(__import__('os').system('false'))", "cannot be read"),
        (f"x = {DARTS_V1}\ny = 1", "cannot be read"),
    ],
)
def test_malformed_strings(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        from_string(text)
    (tmp_path / "own.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        load_genotype(tmp_path / "own.txt")


def test_a_list_of_concatenated_nodes_will_do() -> None:
    listed = DARTS_V1.replace("range(2, 6)", "[2, 3, 4, 5]")
    assert from_string(listed) == from_string(DARTS_V1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 2], "not complete JSON"),
        (lambda t: "{}", r"is not a genotype \(family is missing\); write"),
        (
            lambda t: t.replace('"cells"', '"parts"'),
            r"is not a genotype \(cells is missing\); write",
        ),
        (
            lambda t: t.replace('["none", 1]', '["none", "1"]'),
            r"is not a genotype: \['none', '1'\] is no",
        ),
        (
            lambda t: t.replace('["none", 1]', "null"),
            r"not a genotype \(cells\.cell\.nodes\.3\[1\] is None",
        ),
        (lambda t: t.replace('"3":', '"4":'), r"has nodes \[1, 2, 4\]; number them \[1, 2, 3\]"),
        (lambda t: t.replace('"none"', '"zero"'), "uses the operation 'zero'"),
        (lambda t: t.replace("nasbench201", "nasbench"), "family is 'nasbench', and must be"),
        (lambda t: t.replace("nasbench201", "darts"), "has cells normal, reduce"),
        (lambda t: t.replace("[3]", '["x"]'), r"cells\.cell\.concat\[0\] is 'x', and must be"),
    ],
)
def test_malformed_files(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "cell.json"
    save_genotype(path, from_string(NB201))
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_genotype(path)


def test_damage_that_leaves_a_genotype_is_told(tmp_path: Path) -> None:
    path, genotype = tmp_path / "cell.json", from_string(NB201)
    save_genotype(path, genotype)
    whole = path.read_text()
    path.write_text(whole.replace("skip_connect", "none", 1))
    with pytest.raises(InputError, match=r"cell\.json is damaged: .* SHA-256 .* its line sha256"):
        load_genotype(path)
    written = json.loads(whole)
    path.write_text(json.dumps(written))  # in another layout
    assert load_genotype(path) == genotype
    del written["sha256"]  # as 0.1.0 wrote it
    path.write_text(json.dumps(written))
    assert load_genotype(path) == genotype


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a genotype that can be read"):
        load_genotype(tmp_path / "missing.json")
    with pytest.raises(InputError, match="is not a genotype that can be read"):
        load_genotype(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        save_genotype(tmp_path, from_string(NB201))
    with pytest.raises(InputError, match="is a nasbench201 genotype; pass one of the family darts"):
        load_genotype(NB201, family="darts")
