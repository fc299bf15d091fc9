"""The local runtime's operators: a stage as a process of the worker's machine, and the deployment beside it.

What only a running task needs is imported when it runs: the DAG processor imports this module again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context

from airsmith.airflow.connections import connection_password
from airsmith.airflow.endpoint_link import EndpointLink
from airsmith.airflow.operators.base import annotate_asset_events, typed_errors
from airsmith.contracts.pointers import StagePointer
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import load_settings

if TYPE_CHECKING:
    from airsmith.process.stage_process import StageProcess


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
        annotate_asset_events(context, self.outlets, self.run_uri, pointer)

    def on_kill(self) -> None:
        """Ask the process to end. `execute` is still waiting for it, and returns when it has ended."""
        if self._process is not None:
            self._process.stop()


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
