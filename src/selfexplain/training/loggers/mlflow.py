"""A run of MLflow: in a database in the run's folder, unless the user names another store."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy import URL

from selfexplain.errors import InputError, first_line
from selfexplain.training.log import as_text, flat, run_id

LONGEST = 6000
"""Characters of a parameter, as MLflow limits them."""


class MLflow:
    """One run of MLflow, the same one however often ours is continued.

    Its id is kept in `mlflow/run-id` in the folder. Without MLFLOW_TRACKING_URI the store is
    `mlflow/mlflow.db` there, and nothing leaves this machine; MLFLOW_EXPERIMENT_NAME holds too.

    Args:
        folder: of the run.
        hyperparameters: configuration of the run, nested.

    Raises:
        InputError: the store cannot be reached, or does not hold the run that is continued.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> logger = MLflow(folder, {"seed": 0})
        >>> logger.log({"loss": 0.5}, epoch=1)
        >>> logger.close(failed=False)
        >>> (folder / "mlflow" / "mlflow.db").exists()
        True
    """

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any]) -> None:
        store = (folder / "mlflow").resolve()
        store.mkdir(parents=True, exist_ok=True)
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(store / "mlflow.db")
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating tables"
        with self._reaching_the_store():
            self._client = MlflowClient(tracking_uri=self._uri)
            self._id = run_id(
                store / "run-id",
                hyperparameters,
                lambda: self._new_run(folder.name, store / "artifacts", hyperparameters),
            )
            self._epochs = self._client.get_run(self._id).data.metrics.get("epoch", 0)
            self._client.update_run(self._id, status="RUNNING")

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Log the numbers of one epoch, unless they are there from before the run was stopped."""
        if epoch > self._epochs:
            self._log({**numbers, "epoch": epoch}, epoch)

    def finish(self, scores: Mapping[str, float]) -> None:
        """Log the final scores."""
        self._log({f"final/{name}": value for name, value in scores.items()}, int(self._epochs))

    def close(self, *, failed: bool) -> None:
        """End the run."""
        with self._reaching_the_store():
            self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")

    def _new_run(self, name: str, artifacts: Path, hyperparameters: Mapping[str, Any]) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "selfexplain"
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        location = artifacts.as_uri() if own else None  # else where the server keeps them
        number = self._number_of(experiment)
        if number is None:
            try:
                number = self._client.create_experiment(experiment, artifact_location=location)
            except MlflowException:
                number = self._number_of(experiment)  # another run made it a moment ago
                if number is None:
                    raise
        run_id = str(self._client.create_run(number, run_name=name).info.run_id)
        self._client.log_batch(run_id, params=_params(hyperparameters))
        return run_id

    def _number_of(self, experiment: str) -> str | None:
        found = self._client.get_experiment_by_name(experiment)
        return None if found is None else str(found.experiment_id)

    def _log(self, numbers: Mapping[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in numbers.items()]
        with self._reaching_the_store():
            self._client.log_batch(self._id, metrics=metrics)
        self._epochs = epoch

    @contextmanager
    def _reaching_the_store(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            raise InputError(
                f"MLflow cannot log to {self._uri} ({first_line(error)}); pass a "
                "MLFLOW_TRACKING_URI that can be written to, or for a run that is continued the "
                "one that it began with"
            ) from error


def _sqlite_uri(path: Path) -> str:
    # With the driver: for "sqlite:" MLflow makes a folder of the percent-encoded name.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def _params(hyperparameters: Mapping[str, Any]) -> list[Param]:
    return [Param(k, as_text(v)[:LONGEST]) for k, v in flat(hyperparameters).items()]
