"""The task after `resolve` that looks before the stages leap."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context

from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.task_owner import task_owner
from airsmith.contracts.run import Run
from airsmith.preflight.checks import preflight
from airsmith.settings import load_settings


class PreflightOperator(BaseOperator):
    """Find out what would stop the run's pods, before any accelerator is asked for.

    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = ("run_uri",)
    ui_color = "#fef7e0"

    def __init__(self, *, run_uri: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_uri = run_uri

    def execute(self, context: Context) -> None:
        """Make the checks.

        :raises StageError: everything that is wrong, each with its remedy.
        """
        with typed_errors(self.log):
            settings = load_settings()
            client = KubernetesHook(conn_id=settings.kubernetes.connection).get_conn()
            preflight(Run.open(self.run_uri), settings, client, task_owner(context))
