"""The options of export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfexplain.limits import check_options

Format = Literal["onnx", "torch_export", "source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a trained classifier in forms that others can use."""

    run: Path
    """Folder of a finished run (of train, of retrain, or one of a comparison's runs/)."""
    out: Path
    """Folder to write; what it holds of an earlier export is replaced."""
    formats: tuple[Format, ...] = ()
    """Beside model.safetensors, config.json and README.md: onnx (model.onnx; needs the extra onnx),
    torch_export (model.pt2), source (network.py, plain PyTorch; for the network of a genotype)."""
    push: str | None = None
    """Repository of the Hugging Face hub, NAME/NAME, to upload the folder to; log in before with
    hf auth login."""
    private: bool = False
    """Make the repository private when it is created."""

    def __post_init__(self) -> None:
        """Refuse paths that no file system has."""
        check_options(self)
