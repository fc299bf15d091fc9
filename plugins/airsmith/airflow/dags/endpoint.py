"""The DAG by which a person changes an endpoint: a trigger form, the change, and the proof of what is served then."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import DownstreamTasksSkipped

from airsmith.airflow.dags.finetune import retry_options
from airsmith.airflow.endpoint_link import EndpointLink
from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.runtime import cluster_of, runtime_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.endpoint_change import ChangeRequest, EndpointChange, checked_change, make_change
from airsmith.pipeline.pages import ENDPOINT_PAGE, STAGE_SUMMARIES
from airsmith.recipe.form import form_schema
from airsmith.settings import Settings, load_settings

DAG_ID = "endpoint"
CHANGE, SMOKE_TEST = "change", "smoke_test"
ACTIONS = {
    "deploy": "deploy a version, alone or with a share",
    "shift_traffic": "shift traffic to the version beside",
    "roll_back": "roll back to what was served before",
    "scale": "scale: change the number of servers",
    "stop": "stop: end all servers",
}
"""What the form's choices are called."""


def endpoint_dag() -> DAG:
    """The DAG. It runs when somebody triggers it, one change after the other."""
    settings = load_settings()
    with DAG(
        DAG_ID,
        description="Deploys a version, shifts traffic, rolls back, scales, or stops an endpoint",
        doc_md=ENDPOINT_PAGE,
        schedule=None,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=form_params(),
        tags=["operation"],
        default_args={"owner": settings.team or "airsmith"},
    ) as dag:
        # Not tried again: the person who has asked for it decides, knowing why it failed.
        change = ChangeEndpointOperator(task_id=CHANGE, retries=0, doc_md=ENDPOINT_PAGE)
        change >> _smoke_test(settings)
    return dag


def form_params() -> dict[str, Param]:
    """The trigger form: one field for each of a change."""
    fields = EndpointChange.model_json_schema()["properties"]
    return {name: Param(field.get("default"), **_schema(name, field)) for name, field in fields.items()}


class ChangeEndpointOperator(BaseOperator):
    """Change an endpoint as the form says. Where nothing new is served, nothing is proved afterwards."""

    operator_extra_links = (EndpointLink(),)
    ui_color = "#e6f4ea"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.endpoint = ""
        self._changing = False

    def execute(self, context: Context) -> str:
        """Make the change.

        :returns: URI of the run that proves it.
        :raises StageError: of the class that says what failed.
        :raises DownstreamTasksSkipped: where there is nothing to prove.
        """
        settings = load_settings()
        with typed_errors(self.log):
            request = ChangeRequest(
                checked_change(context["params"]), dag_id=context["dag"].dag_id, run_id=context["run_id"]
            )
            self._changing = True
            try:
                run = make_change(request, settings, cluster_of(settings))
            finally:
                self._changing = False
        if run is None:
            raise DownstreamTasksSkipped(tasks=[SMOKE_TEST])  # type: ignore[no-untyped-call]
        deployed = run.pointer("deploy")
        self.endpoint = deployed.properties["endpoint"] if deployed is not None else ""
        return run.uri

    def on_kill(self) -> None:
        """Give up: Airflow calls this between two steps of `execute`, which then undoes what it has begun.

        :raises AirsmithError: `interrupted`, into `execute`.
        """
        if self._changing:
            raise AirsmithError(ErrorKind.INTERRUPTED, "The change was told to stop.", "Trigger it again.")


def _smoke_test(settings: Settings) -> BaseOperator:
    options: dict[str, Any] = {
        "task_id": SMOKE_TEST,
        "run_uri": f"{{{{ ti.xcom_pull(task_ids='{CHANGE}') }}}}",
        "doc_md": STAGE_SUMMARIES["smoke_test"],
        **retry_options(settings, "cpu"),
    }
    return runtime_of(settings).smoke_test_task(settings, **options)


def _schema(name: str, field: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "title": name.replace("_", " ").capitalize(),
        "description_md": field["description"],
        **form_schema(field),
    }
    return {**schema, "values_display": ACTIONS} if "enum" in field else schema
