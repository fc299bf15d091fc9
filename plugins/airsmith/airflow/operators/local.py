"""The local runtime's operators: a stage as a process of the worker's machine, and the deployment beside it.

What only a running task needs is imported when it runs: the DAG processor imports this module again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperator, BaseOperatorLink, Connection
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowNotFoundException

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.spec import StagePlan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.stage_errors import as_stage_error
from airsmith.recipe import Recipe
from airsmith.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airsmith.process.stage_process import StageProcess

PAGES = "/airsmith"
"""Where Airflow's API server has the pages of `airsmith.ui`."""


def local_task(stage: StagePlan, recipe: Recipe, settings: Settings, **options: Any) -> BaseOperator:
    """The task of a stage on the worker's machine.

    :param options: of any task: its id, retries, assets, place in the DAG.
    """
    if stage.runs_in_worker:
        return LocalDeployOperator(**options)
    return LocalStageOperator(stage=stage.stage, **options)


def mapped_local_training(run_uris: Any, **options: Any) -> Any:
    """A training on the worker's machine for each of several runs.

    :param run_uris: the output of the task that knows them.
    """
    return LocalStageOperator.partial(stage="train", **options).expand(run_uri=run_uris)


class LocalStageOperator(BaseOperator):
    """Run a stage as a process, unless its output is there already.

    The process and all that it started end with the task: when it is killed, times out, or its worker dies.

    :param stage: name of the stage.
    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = ("run_uri",)
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, run_uri: str, **kwargs: Any) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.stage = stage
        self.run_uri = run_uri
        self._process: StageProcess | None = None

    def execute(self, context: Context) -> None:
        """Bring the stage to its output, and put its metrics on the events of the task's assets.

        :raises StageError: of the class that says what failed.
        """
        from airsmith.contracts.run import Run
        from airsmith.process.stage_process import bring_to_output

        def keep(process: StageProcess) -> None:
            self._process = process

        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            pointer = bring_to_output(
                self.stage,
                run,
                load_settings(),
                self.log.log,
                read_connection=connection_password,
                tell_process=keep,
            )
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = event_extra(self.run_uri, pointer)

    def on_kill(self) -> None:
        """Ask the process to end. `execute` is still waiting for it, and returns when it has ended."""
        if self._process is not None:
            self._process.stop()


class EndpointLink(BaseOperatorLink):
    """A button on a task that deploys: to the page of what it has deployed, with the line for curl."""

    name = "Endpoint"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Path of the page on Airflow's API server, empty before anything is deployed."""
        endpoint = getattr(operator, "endpoint", "")
        prefix = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        return f"{prefix}{PAGES}/endpoints/{endpoint}" if endpoint else ""


class LocalDeployOperator(BaseOperator):
    """Serve the run's model on the worker's machine. The server outlives the task and the worker.

    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = ("run_uri",)
    operator_extra_links = (EndpointLink(),)
    ui_color = "#e6f4ea"

    def __init__(self, *, run_uri: str, **kwargs: Any) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.run_uri = run_uri
        self.endpoint = ""
        self._deploying = False

    def execute(self, context: Context) -> None:
        """Deploy, and tell how to talk to the model.

        :raises StageError: of the class that says what failed.
        """
        with typed_errors(self.log):
            self._deploying = True
            try:
                pointer = self.deploy()
            finally:
                self._deploying = False
        self.endpoint = pointer.properties["endpoint"]

    def deploy(self) -> StagePointer:
        """Start the server and wait until it answers."""
        from airsmith.contracts.run import Run
        from airsmith.serving.local.endpoint import deploy

        return deploy(Run.open(self.run_uri), load_settings())

    def on_kill(self) -> None:
        """Give up: Airflow calls this between two steps of `execute`, which then ends the server that it has started.

        :raises AirsmithError: `interrupted`, into `execute`.
        """
        if self._deploying:
            raise AirsmithError(ErrorKind.INTERRUPTED, "The deployment was told to stop.", "Run it again.")


@contextmanager
def typed_errors(log: Logger) -> Iterator[None]:
    """Tell what failed and what to do about it, and raise the exception class of its kind."""
    try:
        yield
    except AirsmithError as error:
        log.error(error.message)
        if error.hint:
            log.error("What to do: %s", error.hint)
        raise as_stage_error(error) from None


def event_extra(run_uri: str, pointer: StagePointer) -> dict[str, Any]:
    """What an asset's event says about the version that it stands for."""
    return {"run": run_uri, "location": pointer.location, **pointer.properties, **pointer.metrics}


def connection_password(connection_id: str) -> str:
    """Password of an Airflow connection.

    :raises AirsmithError: `access_denied` where there is no such connection or it has no password.
    """
    try:
        password = Connection.get(connection_id).password
    except AirflowNotFoundException:
        password = None
    if not password:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The Hub's token should be the password of the Airflow connection {connection_id!r}, which has none.",
            f"Create the connection: airflow connections add {connection_id} --conn-type http --conn-password <token>",
        )
    return str(password)
