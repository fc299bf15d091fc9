"""Operators of the local runtime: a stage, or an endpoint's server, as a process of the worker's machine.

Imports that only a running task needs are inside functions, because the DAG processor imports this module repeatedly.
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
    """Run a stage as a process, unless its output exists.

    The process and its child processes stop with the task: when it is killed, times out, or its worker dies.

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
        """Run the stage, and attach its metrics to the events of the task's assets.

        :raises StageError: the subclass of the error's kind.
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
                on_start=keep,
            )
        annotate_asset_events(context, self.outlets, self.run_uri, pointer)

    def on_kill(self) -> None:
        """Request the process to stop. `execute` is still waiting for it, and returns when it has exited."""
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
        """Deploy, and log how to query the model.

        :raises StageError: the subclass of the error's kind.
        """
        with typed_errors(self.log):
            self._deploying = True
            try:
                pointer = self.deploy()
            finally:
                self._deploying = False
        self.endpoint = pointer.properties["endpoint"]

    def deploy(self) -> StagePointer:
        """Start the server and wait until it is ready."""
        from airsmith.contracts.run import Run
        from airsmith.serving.local.endpoint import deploy

        return deploy(Run.open(self.run_uri), load_settings())

    def on_kill(self) -> None:
        """Interrupt `execute`, within which Airflow calls this; it then stops the server that it has started.

        :raises AirsmithError: `interrupted`, inside `execute`.
        """
        if self._deploying:
            raise AirsmithError(ErrorKind.INTERRUPTED, "Deploying was interrupted.", "Run it again.")
