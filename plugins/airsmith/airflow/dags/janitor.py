"""The janitor's DAG: a round every few minutes, or when somebody asks for one and says what to remove."""

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
    """The DAG. On a cluster it works from the start; on a laptop somebody has to unpause it."""
    settings = load_settings()
    with DAG(
        DAG_ID,
        description="Removes orphaned pods, and says or removes what else nobody needs",
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
        """Make a round, and tell of each kind of garbage once it is dealt with.

        :raises StageError: where cluster, store or Airflow do not answer.
        """
        from airsmith.airflow.task_owner import this_airflow
        from airsmith.janitor.rounds import KnowingAirflow, make_round

        def task_states(dag_id: str, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
            return context["ti"].get_task_states(dag_id=dag_id, run_ids=list(run_ids))

        settings = load_settings()
        airflow = KnowingAirflow(this_airflow(), task_states)
        with typed_errors(self.log):
            for section in make_round(settings, context["params"][DELETE], cluster_of(settings), airflow):
                for line in section.lines():
                    self.log.info(line)


def _delete_param(settings: Settings) -> Param:
    """The field of the trigger form: what this round removes; what the settings say unless somebody changes it."""
    kinds = list(get_args(GarbageKind))
    return Param(
        list(settings.janitor.delete),
        type="array",
        items={"type": "string", "enum": kinds},
        examples=kinds,
        title="Remove",
        description="Beside orphaned pods, which are always removed. Of the rest the log says what there is.",
    )
