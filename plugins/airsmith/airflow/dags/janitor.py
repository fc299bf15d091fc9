"""The janitor's DAG: a round every few minutes, or on request with a choice of what to delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import get_args

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context

from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.runtime import cluster_of
from airsmith.settings import GarbageKind, Settings, load_settings

DAG_ID = "janitor"
DELETE = "delete"


def janitor_dag() -> DAG:
    """The DAG. On a cluster it starts unpaused; with the local runtime, paused."""
    settings = load_settings()
    with DAG(
        DAG_ID,
        description="Deletes orphaned pods; reports or deletes other unused objects",
        doc_md=__doc__,
        schedule=timedelta(minutes=settings.janitor.every_minutes),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=not settings.uses_cluster,
        params={DELETE: _delete_param(settings)},
        tags=["operation"],
        default_args={"owner": settings.team or "airsmith"},
    ) as dag:
        JanitorOperator(task_id="tidy", retries=0)
    return dag


class JanitorOperator(BaseOperator):
    """One round of the janitor."""

    ui_color = "#f3e8fd"

    def execute(self, context: Context) -> None:
        """Make a round, and log the result of each kind of garbage.

        :raises StageError: if the cluster, the store or Airflow does not respond.
        """
        from airsmith.airflow.task_owner import this_airflow
        from airsmith.janitor.rounds import AirflowInstance, run_janitor

        def task_states(dag_id: str, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
            return context["ti"].get_task_states(dag_id=dag_id, run_ids=list(run_ids))

        settings = load_settings()
        airflow = AirflowInstance(this_airflow(), task_states)
        with typed_errors(self.log):
            for section in run_janitor(settings, context["params"][DELETE], cluster_of(settings), airflow):
                for line in section.lines():
                    self.log.info(line)


def _delete_param(settings: Settings) -> Param:
    """The field of the trigger form: what this round deletes, by default what the settings say."""
    kinds = list(get_args(GarbageKind))
    return Param(
        list(settings.janitor.delete),
        type="array",
        items={"type": "string", "enum": kinds},
        examples=kinds,
        title="Delete",
        description="Kinds to delete besides orphaned pods, which are always deleted. The log reports the others.",
    )
