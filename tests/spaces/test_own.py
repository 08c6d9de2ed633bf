"""A space of one's own: its modules, one object, its registration; all else finds it there."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfexplain.data import ImageData, MemoryImages
from selfexplain.errors import InputError
from selfexplain.experiments.options import DataOptions, RetrainConfig
from selfexplain.experiments.read_records import read_search_lines
from selfexplain.experiments.report import search_sections
from selfexplain.experiments.search.run import run_search
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.lease import DARTS, RandomSearch
from selfexplain.report import cell_svg, cell_text
from selfexplain.spaces import (
    FAMILIES,
    SPACES,
    Cell,
    CellRules,
    Edge,
    Genotype,
    SearchSpace,
    Size,
    Supernet,
    build_network,
    build_supernet,
    from_string,
    load_genotype,
    one_hot_architecture,
    random_genotype,
    register_space,
    save_genotype,
    to_string,
)
from selfexplain.spaces.genotype import edges_of
from selfexplain.spaces.network import Edges
from selfexplain.spaces.space import Form
from selfexplain.spaces.standalone import source_of
from selfexplain.spaces.supernet import MixedOp, as_it_is, propagate, rows_by_source
from selfexplain.training.log import EpochLog

# What a file of its own would hold: cells of two nodes, each of which takes one earlier node.

RULES = CellRules(
    cells=("cell",),
    inputs=1,
    nodes=2,
    operations=("none", "skip_connect", "nor_conv_3x3"),
    edges_per_node=1,
    concat=(2,),
)


class ChainNetwork(nn.Module):
    """Stem, one cell, linear head on its pooled features."""

    def __init__(self, cell: nn.Module, num_classes: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem, self.cell = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), cell
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x_BCHW: Tensor, *for_cell: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.cell(self.stem(x_BCHW), *for_cell).mean(dim=(2, 3)))
        return logits_BK


class MixedChain(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = rows_by_source("chain")
        self.senders = nn.ModuleList(
            MixedOp("chain", channels, len(rows), bundled=True) for rows in self.rows
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
        senders = (
            partial(sender, weights_EO=weights_EO[rows])
            for sender, rows in zip(self.senders, self.rows, strict=True)
        )
        return propagate([x_BCHW], senders, as_it_is)[-1]


class DerivedChain(nn.Module):
    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges = Edges(cell, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        nodes: list[Tensor] = self.edges([x_BCHW])
        return nodes[-1]


class ChainSupernet(Supernet):
    family = "chain"
    architecture_shapes: Mapping[str, tuple[int, ...]] = {"cell": (3, 3)}

    def __init__(self, *, image_size: int, cells: int, channels: int, **sizes: int) -> None:
        del image_size, cells
        super().__init__()
        self.network = ChainNetwork(MixedChain(channels), channels=channels, **sizes)

    def forward(self, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
        architecture = self.checked(architecture, x_BCHW)
        logits_BK: Tensor = self.network(x_BCHW, architecture["cell"].softmax(-1))
        return logits_BK

    def genotype(self, architecture: Mapping[str, Tensor]) -> Genotype:
        """For every node the edge whose best operation other than none weighs most."""
        weights_EO = self.checked(architecture)["cell"].softmax(-1)[:, 1:]
        edges, nodes = edges_of("chain"), []
        for node in (1, 2):
            rows = [row for row, (_, target) in enumerate(edges) if target == node]
            best = max(rows, key=lambda row: float(weights_EO[row].max()))
            name = RULES.operations[1 + int(weights_EO[best].argmax())]
            nodes.append((Edge(name, edges[best][0]),))
        return Genotype("chain", {"cell": Cell(tuple(nodes), RULES.concat)})


def chain_network(genotype: Genotype, *, channels: int, **sizes: Any) -> nn.Module:
    cell = DerivedChain(genotype.cells["cell"], channels)
    return ChainNetwork(cell, sizes["num_classes"], sizes["in_channels"], channels)


def chain_text(genotype: Genotype) -> str:
    return "chain:" + "".join(f" {op}({s})" for [(op, s)] in genotype.cells["cell"].nodes)


def read_chain(text: str) -> Genotype:
    edges = [Edge(op, int(source)) for op, source in re.findall(r"(\w+)\((\d)\)", text)]
    return Genotype("chain", {"cell": Cell(tuple((edge,) for edge in edges), RULES.concat)})


CHAIN = SearchSpace(
    name="chain",
    family="chain",
    rules=RULES,
    to_string=chain_text,
    from_string=read_chain,
    text_pattern="chain:",
    text_example="chain: op(0) op(1)",
    supernet=ChainSupernet,
    network=chain_network,
    halvings=lambda cells, form: 1,
    supernet_cells=1,
    sizes={"small": Size(channels=8, cells=1)},
    channel_unit=4,
    fewest_cells=1,
)

# And what the library then does with it.

SIZES = {"num_classes": 2, "in_channels": 1, "image_size": 8}
TEXT = "chain: nor_conv_3x3(0) skip_connect(1)"


@pytest.fixture(autouse=True)
def chain() -> Iterator[SearchSpace]:
    register_space(CHAIN)
    yield CHAIN
    del SPACES["chain"]


def batch(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])


def test_a_search_steps_and_what_it_finds_is_printed_read_and_built(tmp_path: Path) -> None:
    supernet = build_supernet("chain", **SIZES, channels=4)
    search = DARTS(supernet, order=2)
    before = {name: tensor.clone() for name, tensor in search.architecture.items()}
    losses = search.step(batch(0), batch(1))
    assert set(losses) == {"explainer", "validation"}
    assert not torch.equal(before["cell"], search.architecture["cell"])

    genotype = search.genotype()
    assert from_string(to_string(genotype)) == genotype
    save_genotype(tmp_path / "genotype.json", genotype)
    assert load_genotype(tmp_path / "genotype.json", "chain") == genotype
    network = build_network(genotype, **SIZES)
    assert network(batch(2)[0]).shape == (4, 2)
    assert network.head.in_features == 8, "the published size"


def test_the_supernet_computes_the_network_of_each_genotype() -> None:
    """With the weights of the one in the other: a genotype means the same in both."""
    supernet = build_supernet("chain", **SIZES, channels=4).eval()
    search = RandomSearch(supernet, candidates=2)
    search.step(batch(0), batch(1))
    search.end_epoch([batch(1)])
    drawn = random_genotype("chain", torch.Generator().manual_seed(3))
    for genotype in (drawn, search.genotype()):
        assert supernet.genotype(one_hot_architecture(supernet, genotype)) == genotype
    genotype, x = from_string("chain: skip_connect(0) skip_connect(1)"), batch(2)[0]
    network = build_network(genotype, **SIZES, channels=4)
    network.load_state_dict(supernet.network.state_dict(), strict=False)
    alone = supernet(x, one_hot_architecture(supernet, genotype))
    torch.testing.assert_close(network(x), alone, rtol=1e-5, atol=1e-6)


def test_whole_searches_and_reports_know_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    halves = MemoryImages(images, torch.arange(32) % 2)
    data = ImageData(train=halves, test=halves, class_names=("a", "b"))
    config = SearchConfig(
        data=DataOptions(data="digits"),
        space="chain",
        method="darts1",
        epochs=1,
        batch_size=8,
        init_channels=4,
        accelerator="cpu",
        out=tmp_path / "search",
    )
    result = run_search(config, data=data)
    [line] = read_search_lines(EpochLog(config.out, name="search.jsonl"), "chain")
    assert line["genotype"] == result["genotype"]
    assert from_string(result["genotype"]).family == "chain"
    assert "of a chain genotype" in (config.out / "cell.svg").read_text()
    assert "of a chain genotype" in str(search_sections(config.out))
    retrain = RetrainConfig(data=DataOptions(data="digits"), genotype=f" {TEXT}")
    assert retrain.genotype == TEXT


def test_its_limits_are_said() -> None:
    with pytest.raises(InputError, match="channels is 6; for chain pass a multiple of 4"):
        build_supernet("chain", **SIZES, channels=6)
    with pytest.raises(InputError, match="channels is 6; for chain pass a multiple of 4"):
        build_network(from_string(TEXT), **SIZES, channels=6)
    with pytest.raises(InputError, match=r"image_size is 7, .* 1 time; pass a multiple of 2"):
        build_supernet("chain", **{**SIZES, "image_size": 7}, channels=4)
    with pytest.raises(InputError, match="init_channels is 6; for chain pass"):
        SearchConfig(data=DataOptions(data="digits"), space="chain", init_channels=6)
    with pytest.raises(InputError, match="init_channels is 6; pass a multiple of 4 for a chain"):
        RetrainConfig(data=DataOptions(data="digits"), genotype=TEXT, init_channels=6)
    with pytest.raises(InputError, match="a chain network has no auxiliary head; pass"):
        build_network(from_string(TEXT), **SIZES, auxiliary=True)
    with pytest.raises(InputError, match=r"or chain: op\(0\) op\(1\) \(chain\)"):
        from_string("something else")
    with pytest.raises(InputError, match="uses the operation 'sep_conv_3x3'; pass one of none, sk"):
        from_string("chain: sep_conv_3x3(0) skip_connect(1)")


@pytest.mark.parametrize(
    ("of", "asked", "said"),
    [
        ({}, ("imagenet", True), "no imagenet form and no auxiliary head"),
        ({}, ("imagenet", False), "no imagenet form"),
        ({}, ("small", True), "no auxiliary head"),
        ({"auxiliary": True}, ("imagenet", True), "no imagenet form"),
        (
            {"sizes": {"small": Size(8, 1), "imagenet": Size(8, 1)}},
            ("imagenet", True),
            "no auxiliary head",
        ),
    ],
)
def test_what_its_networks_lack_is_said(
    of: dict[str, Any], asked: tuple[Form, bool], said: str
) -> None:
    space = replace(CHAIN, **of)
    assert space.lacking(*asked) == f"a chain network has {said}"
    assert space.lacking("small", False) == ""


def test_fewer_cells_than_it_needs_are_refused() -> None:
    SPACES["chain"] = replace(CHAIN, fewest_cells=2, supernet_cells=2)
    with pytest.raises(
        InputError, match="cells is 1, but a chain supernet of fewer than 2 cells cannot"
    ):
        build_supernet("chain", **SIZES, channels=4, cells=1)
    assert build_supernet("chain", **SIZES, channels=4).family == "chain"


def test_its_source_is_a_file_that_the_genotype_is_put_into(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the space chain has no source"):
        source_of(from_string(TEXT), num_classes=2, in_channels=1)
    template = tmp_path / "chain_network.py"
    template.write_text("# begin: the network\nCELL = ...\n# end: the network\nNODES = len(CELL)\n")
    SPACES["chain"] = replace(CHAIN, source=template)
    scope: dict[str, Any] = {}
    exec(source_of(from_string(TEXT), num_classes=2, in_channels=1), scope)
    assert scope["CELL"] == [[("nor_conv_3x3", 0)], [("skip_connect", 1)]]
    assert [scope[name] for name in ("NODES", "CHANNELS", "CELLS")] == [2, 8, 1]


def test_an_operation_of_its_own_is_drawn() -> None:
    own = (*RULES.operations, "a_rather_long_operation")
    SPACES["chain"] = replace(CHAIN, rules=replace(RULES, operations=own))
    genotype = from_string("chain: a_rather_long_operation(0) skip_connect(0)")
    assert "a_rather_long_operation</text>" in cell_svg(genotype)
    assert "1 = a_rather_long_operation(0)" in cell_text(genotype)


def test_names_are_unique_and_families_known() -> None:
    assert list(FAMILIES) == ["chain", "darts", "nasbench201", "tiny201"]
    with pytest.raises(InputError, match="there is a space 'chain' already"):
        register_space(CHAIN)
    with pytest.raises(InputError, match=r"'ring' is of the family 'rings', .* or one of .*chain"):
        register_space(replace(CHAIN, name="ring", family="rings"))
    register_space(replace(CHAIN, name="ring"))
    try:
        assert build_supernet("ring", **SIZES, channels=4).family == "chain"
        assert list(FAMILIES) == ["chain", "darts", "nasbench201", "tiny201"]
    finally:
        del SPACES["ring"]
