"""What a search is made of before it starts, and what is made of its outcome."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfexplain.data import Batches, ImageData
from selfexplain.distributed import take_from_first
from selfexplain.errors import InputError
from selfexplain.experiments.data import Prepared, side_of
from selfexplain.experiments.fit.model import check_model
from selfexplain.experiments.search_options import SearchConfig
from selfexplain.files import atomic_file
from selfexplain.hypergradients import World
from selfexplain.hypergradients.level import SINGLE
from selfexplain.lease import DARTS, SANAS, ArchitectureSearch, LeaSE, RandomBest, RandomSearch
from selfexplain.lease.bases import PDARTS, make_base
from selfexplain.lease.search import Batch
from selfexplain.models import build_model
from selfexplain.seeding import named_generator
from selfexplain.spaces import (
    FAMILIES,
    SPACES,
    Genotype,
    Supernet,
    build_network,
    build_supernet,
    save_genotype,
)

# From a search's configuration to the search and its batches.


def build_search(
    config: SearchConfig,
    data: ImageData,
    std_C: Tensor,
    device: torch.device,
    processes: World = SINGLE,
    stage: int = 0,
) -> ArchitectureSearch:
    """The search of a method (not of random), its start values a function of the seed alone.

    All processes start with what the first one has built. A base of several supernets has as many
    stages, counted from 0.

    Raises:
        InputError: space, images or audience do not fit each other.

    Example:
        >>> from selfexplain.experiments.options import DataOptions
        >>> from selfexplain.experiments.data import load
        >>> config = SearchConfig(data=DataOptions(data="digits"), init_channels=4, cells=1)
        >>> device = torch.device("cpu")
        >>> build_search(config, load(config.data), torch.ones(1), device).genotype().family
        'nasbench201'
    """
    base = make_base(config.base)
    cells = base.cells(stage, config.cells) if isinstance(base, PDARTS) else config.cells
    supernet = _supernet(config, data, cells)
    supernet = supernet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    take_from_first(supernet.state_dict().values())
    if config.method in ("darts1", "darts2"):
        return DARTS(
            supernet,
            order=1 if config.method == "darts1" else 2,
            rates=config.rates,
            mode=config.options.mode or "finite_difference",
            seed=config.seed,
            processes=processes,
            base=base,
        )
    if config.method == "random_best":
        alone = partial(
            build_network,
            num_classes=data.num_classes,
            in_channels=data.shape_CHW[0],
            image_size=side_of(data.shape_CHW),
            channels=config.init_channels,
            cells=SPACES[config.space].supernet_cells if cells is None else cells,
            form=config.form,
        )
        return RandomBest(
            supernet,
            alone,
            candidates=config.candidates,
            rates=config.rates,
            seed=config.seed,
            processes=processes,
        )
    if config.method == "random_search":
        return RandomSearch(supernet, rates=config.rates, seed=config.seed, processes=processes)
    if config.method == "sanas":
        return SANAS(
            supernet,
            options=config.options,
            rates=config.rates,
            std_C=std_C,
            seed=config.seed,
            processes=processes,
            base=base,
        )
    audience = _audience(config, data)
    audience = audience.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    take_from_first(audience.state_dict().values())
    return LeaSE(
        supernet,
        audience,
        options=config.options,
        rates=config.rates,
        std_C=std_C,
        seed=config.seed,
        processes=processes,
        base=base,
    )


def _supernet(config: SearchConfig, data: ImageData, cells: int | None) -> Supernet:
    image_size = side_of(data.shape_CHW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_supernet(
            config.space,
            num_classes=data.num_classes,
            in_channels=data.shape_CHW[0],
            image_size=image_size,
            channels=config.init_channels,
            cells=cells,
            form=config.form,
        )


def _audience(config: SearchConfig, data: ImageData) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        audience = build_model(
            config.audience, num_classes=data.num_classes, in_channels=data.shape_CHW[0]
        )
    check_model(audience, config.audience, data.shape_CHW, data.num_classes)
    return audience


class BilevelLoader:
    """The batches of both halves of the training images, in pairs.

    Args:
        config: the search's configuration.
        prepared: images; those to be scored are the half that moves the architecture.
        device: where batches are wanted.
        processes: those that share each batch.

    Raises:
        InputError: a half does not fill a batch, or the processes cannot share one evenly.
    """

    def __init__(
        self,
        config: SearchConfig,
        prepared: Prepared,
        device: torch.device,
        processes: World = SINGLE,
    ) -> None:
        self.shuffled = config.validation_labels == "shuffled"
        self.seed, self.rank = config.seed, processes.rank
        for name, images in {"training": prepared.train, "held-out": prepared.scored}.items():
            if len(images) < config.batch_size:
                raise InputError(
                    f"the {name} part has {len(images)} images, fewer than a batch of "
                    f"{config.batch_size}; pass a smaller --batch-size, or another --validation "
                    "or --train-size"
                )
        self.training, self.held_out = (
            Batches(
                images,
                batch_size=config.batch_size,
                seed=seed,
                device=device,
                augmentation=prepared.augmentation,
                rank=processes.rank,
                world_size=processes.count,
                workers=config.data.workers,
                mean_C=prepared.mean_C,
                std_C=prepared.std_C,
            )
            for images, seed in ((prepared.train, config.seed), (prepared.scored, config.seed + 1))
        )

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return len(self.training)

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, Batch]]:
        """Each training batch with a held-out one; the held-out half is begun anew if it ends."""
        rounds = -(-len(self.training) // len(self.held_out))
        draws = named_generator("validation labels", self.seed, epoch, self.rank)
        again = chain.from_iterable(self.held_out.epoch(epoch * rounds + i) for i in count())
        for pair in zip(self.training.epoch(epoch), islice(again, len(self)), strict=True):
            train, held_out = (
                (x_BCHW.contiguous(memory_format=torch.channels_last), y_B) for x_BCHW, y_B in pair
            )
            if self.shuffled:
                images, labels_B = held_out
                held_out = images, labels_B[torch.randperm(len(labels_B), generator=draws)]
            yield train, held_out


def skip_connections(genotype: Genotype) -> tuple[int, int]:
    """Number of skip connections, and of edges, of the cell (darts: the normal one).

    Example:
        >>> from selfexplain.spaces import from_string
        >>> skip_connections(from_string(
        ...     "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|"
        ... ))
        (2, 6)
    """
    first = next(iter(FAMILIES[genotype.family].cells))
    operations = [edge.operation for node in genotype.cells[first].nodes for edge in node]
    return operations.count("skip_connect"), len(operations)


def collapsed(genotype: Genotype) -> bool:
    """Whether more than half of the edges are skip connections.

    Of the cells of NAS-Bench-201, those with four of six or more lose many points of accuracy.
    """
    skips, edges = skip_connections(genotype)
    return 2 * skips > edges


def operation_weights(architecture: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cell -> softmax weights (edges, operations), on the CPU; weights of edges are left out."""
    return {
        name: tensor.detach().softmax(-1).cpu()
        for name, tensor in architecture.items()
        if tensor.dim() == 2
    }


def mean_entropy(weights: Mapping[str, Tensor]) -> float:
    """Mean entropy of the edges' weights in nats: how undecided the search is."""
    edges = [torch.special.entr(weights_EO).sum(1) for weights_EO in weights.values()]
    return float(torch.cat(edges).mean())


def write_outcome(folder: Path, genotype: Genotype, history: Sequence[dict[str, Any]]) -> None:
    """Write `genotype.json`, `cell.svg` and, for a search with a history, `architecture.png`."""
    # Here, as matplotlib is not to hold up a refusal.
    from selfexplain.report import architecture_figure, cell_svg, save_figure

    save_genotype(folder / "genotype.json", genotype)
    with atomic_file(folder / "cell.svg") as file:
        file.write(cell_svg(genotype).encode())
    if history:
        weights = [
            {name: torch.tensor(rows) for name, rows in line["weights"].items()} for line in history
        ]
        operations = FAMILIES[genotype.family].operations
        save_figure(architecture_figure(weights, operations), folder / "architecture.png")
