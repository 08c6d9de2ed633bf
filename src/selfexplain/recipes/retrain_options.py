"""The options of retraining, from which the command line is generated."""

from dataclasses import dataclass
from typing import Annotated

from selfexplain.errors import InputError
from selfexplain.limits import Limits, NotNegative, ShareBelowOne, check_once, check_options
from selfexplain.recipes.machines import process_count
from selfexplain.recipes.options import RunConfig, name_folder
from selfexplain.spaces import load_genotype, to_string
from selfexplain.spaces.checks import Form


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig(RunConfig):
    """Train the network of a genotype from new weights.

    The run keeps the genotype itself, as its benchmark writes it, and not the path of its file: it
    is the same run wherever the genotype lay.

    Example:
        >>> from selfexplain.recipes.options import DataOptions
        >>> config = RetrainConfig(
        ...     data=DataOptions(data="digits"), genotype="published:DARTS_V2", auxiliary=0.4
        ... )
        >>> config.genotype[:40]
        "Genotype(normal=[('sep_conv_3x3', 0), ('"
    """

    genotype: str
    """File of a genotype (a search writes genotype.json), published:NAME, or the genotype as its
    benchmark writes it: |op~0|+|op~0|op~1|+... or Genotype(normal=[...], ...)."""
    objective: str = "standard"
    """standard | label_smoothing | confidence_penalty | introspective, with options of its own
    after a colon if you like: introspective:weight=0.1,control=permuted."""
    init_channels: Annotated[int, Limits(least=1, most=4096)] | None = None
    """Channels of the first cells; None for the published ones: darts 36, and 48 in the imagenet
    form; nasbench201 16."""
    cells: Annotated[int, Limits(least=1, most=500)] | None = None
    """Cells of the network (darts; None for 20, and 14 in the imagenet form), or of each of its
    three stages (nasbench201; None for 5)."""
    form: Form = "small"
    """small for images of about 32 pixels; imagenet (darts alone) starts with three convolutions of
    stride 2."""
    auxiliary: NotNegative = 0.0
    """Weight of the cross-entropy of a second head at two thirds of the depth (darts alone; 0.4 as
    published); 0 for no such head."""
    drop_path: ShareBelowOne = 0.0
    """Probability that an operation is left out for an image, in the last epochs; it grows linearly
    from 0 (published for darts: 0.2 to 0.3)."""

    def __post_init__(self) -> None:
        """Take the genotype in; refuse what cannot be trained; name the folder."""
        check_options(self)
        check_once(self, "loggers")
        genotype = load_genotype(self.genotype)
        object.__setattr__(self, "genotype", to_string(genotype))
        _check_family(self, genotype.family)
        if self.auxiliary and self.training.batch_size // process_count(self.device) < 2:
            raise InputError(
                "the auxiliary head normalises over the images of a step on each device; "
                "pass a --batch-size of at least 2 for each"
            )
        name_folder(self, "retrain", genotype.family)


def _check_family(config: RetrainConfig, family: str) -> None:
    """Refuse what the networks of a family lack."""
    if family == "nasbench201" and (config.form != "small" or config.auxiliary):
        raise InputError(
            "a nasbench201 network has neither an imagenet form nor an auxiliary head; "
            "pass --form small and --auxiliary 0"
        )
    if family == "darts" and config.init_channels is not None and config.init_channels % 2:
        raise InputError(
            f"init_channels is {config.init_channels}; pass an even number for a darts genotype"
        )
