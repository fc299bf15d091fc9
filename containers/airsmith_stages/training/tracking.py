"""The training's history where people's own tools look for it: a TensorBoard file in the run's folder, and MLflow."""

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
"""`tensorboard --logdir` of a run's folder, or of the folder of many, finds it by the word tfevents."""
MLFLOW_URI = "MLFLOW_TRACKING_URI"
RUN_TAG = "airsmith.run"
"""By which a training that goes on finds its run in MLflow again."""

_LONGEST_PARAMETER = 500
_PARAMETERS_AT_ONCE = 100
_SHOWN_GROUPS = ("model", "dataset", "method", "training", "backend")


class Tracker(Protocol):
    """Somewhere else that the history goes to."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write what is new of the whole history.

        :raises AirsmithError: which is told in the log and harms nothing.
        """

    def end(self, failure: BaseException | None) -> None:
        """Say how the attempt ended."""


def trackers(run: Run, spec: RunSpec) -> list[Tracker]:
    """TensorBoard always, MLflow where a server is named."""
    found: list[Tracker] = [TensorBoardFile(run)]
    if os.environ.get(MLFLOW_URI):
        found.append(MlflowRun(run, spec))
    return found


class TensorBoardFile:
    """One event file of the whole history, written anew as it grows: objects cannot be appended to."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen_at: list[float] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows, each with the time at which it was first seen here."""
        from tensorboardX import SummaryWriter

        self._seen_at += [time.time()] * (len(rows) - len(self._seen_at))
        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                for row, seen_at in zip(rows, self._seen_at, strict=True):
                    for name, value in _numbers(row).items():
                        writer.add_scalar(f"train/{name}", value, row["step"], seen_at)
            (file,) = Path(folder).iterdir()
            self._run.write(EVENTS_FILE, file.read_bytes())

    def end(self, failure: BaseException | None) -> None:
        """Nothing: the file says it."""


class MlflowRun:
    """A run of an MLflow server: the recipe as parameters, the history as metrics. A later attempt goes on with it."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        # A server that does not answer must not hold the training's end up: the library's own defaults are minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._run = run
        self._spec = spec
        self._id = ""
        self._last_step = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that the server does not have.

        :raises AirsmithError: `not_found` where the server does not take them.
        """
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient()
            self._id = self._id or self._begin(client)
            now = int(time.time() * 1000)
            metrics = [
                Metric(name, value, now, row["step"])
                for row in rows
                if row["step"] > self._last_step
                for name, value in _numbers(row).items()
            ]
            for begin in range(0, len(metrics), 1000):  # as many as the server takes at once
                client.log_batch(self._id, metrics=metrics[begin : begin + 1000])
        except Exception as refused:  # whatever it is, it is no failure of the training
            raise self._unheard(refused) from refused
        self._last_step = max((row["step"] for row in rows), default=self._last_step)

    def end(self, failure: BaseException | None) -> None:
        """Close the server's run."""
        from mlflow.tracking import MlflowClient

        was_stopped = isinstance(failure, AirsmithError) and failure.kind is ErrorKind.INTERRUPTED
        status = "FINISHED" if failure is None else "KILLED" if was_stopped else "FAILED"
        try:
            if self._id:
                MlflowClient().set_terminated(self._id, status)
        except Exception as refused:  # whatever it is, it is no failure of the training
            raise self._unheard(refused) from refused

    def _begin(self, client: Any) -> str:
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
        for begin in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            client.log_batch(identity, params=parameters[begin : begin + _PARAMETERS_AT_ONCE])
        return identity

    def _parameters(self) -> list[Any]:
        from mlflow.entities import Param

        content = self._spec.recipe.model_dump(mode="json", include=set(_SHOWN_GROUPS))
        return [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in flatten(content).items()]

    def _unheard(self, refused: Exception) -> AirsmithError:
        said = str(refused).splitlines()[0][:300]
        return AirsmithError(
            ErrorKind.NOT_FOUND,
            f"MLflow does not take the training's metrics: {said}",
            f"Check {MLFLOW_URI}; the training goes on without it.",
        )


def _numbers(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
