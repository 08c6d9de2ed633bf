"""Metrics of each epoch, as JSON lines and, if asked for, for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from selfexplain.errors import InputError
from selfexplain.training.files import atomic_file


class EpochLog:
    """One JSON object a line, one line an epoch; scalars to TensorBoard.

    Args:
        folder: folder of the run.
        tensorboard: also write event files into `folder/tensorboard` (needs the tensorboard extra).
        name: of the file.

    Raises:
        InputError: tensorboard is asked for and not installed.

    Example:
        >>> import tempfile
        >>> log = EpochLog(Path(tempfile.mkdtemp()))
        >>> log.write({"epoch": 1, "loss": 0.5}); log.read()
        [{'epoch': 1, 'loss': 0.5}]
    """

    def __init__(
        self, folder: Path, tensorboard: bool = False, name: str = "metrics.jsonl"
    ) -> None:
        self.path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = _tensorboard_writer(folder / "tensorboard") if tensorboard else None

    def write(self, metrics: dict[str, Any]) -> None:
        """Append the metrics of one epoch; "epoch" counts from 1."""
        with self.path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, metrics["epoch"])
            self._writer.flush()

    def read(self) -> list[dict[str, Any]]:
        """All whole lines written so far; a last line cut off by a crash is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def cut_after(self, epoch: int) -> None:
        """Drop lines of epochs after this one: a resumed run writes them again."""
        kept = [line for line in self.read() if line["epoch"] <= epoch]
        with atomic_file(self.path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the tensorboard package; install it with: "
            "pip install 'selfexplain[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))
