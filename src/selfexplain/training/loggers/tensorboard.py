"""Event files for TensorBoard, in the run's folder."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from selfexplain.files import cannot_write
from selfexplain.training.log import as_text, flat


class TensorBoard:
    """Scalars of each epoch, and at the end the configuration with the final scores (HParams).

    Args:
        folder: of the run; the event files go into `tensorboard` in it.
        hyperparameters: configuration of the run, nested.

    Raises:
        WriteError: an event file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> logger = TensorBoard(folder, {"seed": 0})
        >>> logger.log({"loss": 0.5}, epoch=1)
        >>> logger.close(failed=False)
        >>> [path.name.split(".")[0] for path in (folder / "tensorboard").iterdir()]
        ['events']
    """

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any]) -> None:
        self._hyperparameters = {k: as_text(v) for k, v in flat(hyperparameters).items()}
        self._folder = str(folder / "tensorboard")
        self._writer: Any = None

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Write the scalars of one epoch, in place of any that a stopped start left of it."""
        with self._writing():
            if self._writer is None:
                # TensorBoard then drops what earlier files hold of this epoch and later ones.
                self._writer = SummaryWriter(self._folder, purge_step=epoch)
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def finish(self, scores: Mapping[str, float]) -> None:
        """Write the final scores with the configuration."""
        finals = {f"final/{name}": value for name, value in scores.items()}
        with self._writing():
            if self._writer is None:
                self._writer = SummaryWriter(self._folder)
            self._writer.add_hparams(self._hyperparameters, finals, run_name=".")

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - event files do not say
        """Finish the event file."""
        if self._writer is not None:
            with self._writing():
                self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what goes wrong once, here, and not in the thread that TensorBoard writes in too."""
        print_trace, threading.excepthook = (
            threading.excepthook,
            lambda failed: None if failed.exc_type is OSError else print_trace(failed),
        )
        try:
            yield
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        finally:
            threading.excepthook = print_trace
