"""Experiment tracking: a TensorBoard file in the run's folder, and MLflow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.dotted_keys import flatten
from airsmith_stages.training.history import Row

EVENTS_FILE = "tensorboard/events.out.tfevents.0.airsmith"
"""`tensorboard --logdir` finds it by the word tfevents, for one run's folder or a folder of several."""
MLFLOW_URI = "MLFLOW_TRACKING_URI"
RUN_TAG = "airsmith.run"
"""Tag by which a resumed training finds its MLflow run."""

_MAX_PARAMETER_LENGTH = 500
_MAX_PARAMETERS_PER_BATCH = 100
_LOGGED_GROUPS = ("model", "dataset", "method", "training", "backend")


class Tracker(Protocol):
    """A tracking backend that receives the history."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write the new rows of the history.

        :param rows: the whole history.
        :raises AirsmithError: on failure; it is logged, and the training continues.
        """

    def end(self, failure: BaseException | None) -> None:
        """Record the result of the attempt."""


def trackers(run: Run, spec: RunSpec) -> list[Tracker]:
    """TensorBoard, and MLflow if a server is configured."""
    found: list[Tracker] = [TensorBoardFile(run)]
    if os.environ.get(MLFLOW_URI):
        found.append(MlflowRun(run, spec))
    return found


class TensorBoardFile:
    """One event file with the whole history, rewritten as it grows: objects do not support appending."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._first_write_at: list[float] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows, each with the time of its first write in this process."""
        from tensorboardX import SummaryWriter

        self._first_write_at += [time.time()] * (len(rows) - len(self._first_write_at))
        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                for row, written_at in zip(rows, self._first_write_at, strict=True):
                    for name, value in _numbers(row).items():
                        writer.add_scalar(f"train/{name}", value, row["step"], written_at)
            (file,) = Path(folder).iterdir()
            self._run.write(EVENTS_FILE, file.read_bytes())

    def end(self, failure: BaseException | None) -> None:
        """No-op: the file does not record a result."""


class MlflowRun:
    """An MLflow run: the recipe as parameters, the history as metrics. Later attempts continue the same run."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        # An unreachable server must not delay the end of the training: the library's defaults are minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._run = run
        self._spec = spec
        self._id = ""
        self._last_step = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that the server does not have yet.

        :raises AirsmithError: `not_found` if the server does not accept them.
        """
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient()
            self._id = self._id or self._open(client)
            now = int(time.time() * 1000)
            metrics = [
                Metric(name, value, now, row["step"])
                for row in rows
                if row["step"] > self._last_step
                for name, value in _numbers(row).items()
            ]
            for begin in range(0, len(metrics), 1000):  # the server's limit per call
                client.log_batch(self._id, metrics=metrics[begin : begin + 1000])
        except Exception as failure:  # a failure of the server must not fail the training
            raise self._error(failure) from failure
        self._last_step = max((row["step"] for row in rows), default=self._last_step)

    def end(self, failure: BaseException | None) -> None:
        """Close the MLflow run."""
        from mlflow.tracking import MlflowClient

        was_stopped = isinstance(failure, AirsmithError) and failure.kind is ErrorKind.INTERRUPTED
        status = "FINISHED" if failure is None else "KILLED" if was_stopped else "FAILED"
        try:
            if self._id:
                MlflowClient().set_terminated(self._id, status)
        except Exception as failure:  # a failure of the server must not fail the training
            raise self._error(failure) from failure

    def _open(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self._spec.recipe.name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self._spec.recipe.name)
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{self._run.uri}'", max_results=1)
        if found:
            identity = str(found[0].info.run_id)
            client.update_run(identity, status="RUNNING")
            history = client.get_metric_history(identity, "loss")
            self._last_step = max((metric.step for metric in history), default=0)
            return identity
        name = "/".join(part for part in (self._run.name, self._run.trial_name) if part)
        identity = str(client.create_run(experiment_id, tags={RUN_TAG: self._run.uri}, run_name=name).info.run_id)
        parameters = self._parameters()
        for begin in range(0, len(parameters), _MAX_PARAMETERS_PER_BATCH):
            client.log_batch(identity, params=parameters[begin : begin + _MAX_PARAMETERS_PER_BATCH])
        return identity

    def _parameters(self) -> list[Any]:
        from mlflow.entities import Param

        content = self._spec.recipe.model_dump(mode="json", include=set(_LOGGED_GROUPS))
        return [Param(key, str(value)[:_MAX_PARAMETER_LENGTH]) for key, value in flatten(content).items()]

    def _error(self, failure: Exception) -> AirsmithError:
        reason = str(failure).splitlines()[0][:300]
        return AirsmithError(
            ErrorKind.NOT_FOUND,
            f"MLflow does not accept the training's metrics: {reason}",
            f"Check {MLFLOW_URI}; the training continues without MLflow.",
        )


def _numbers(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
