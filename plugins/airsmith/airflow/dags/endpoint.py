"""The DAG that changes an endpoint: a trigger form, the change, and a smoke test of what is then served."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import DownstreamTasksSkipped

from airsmith.airflow.endpoint_link import EndpointLink
from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.retry_policy import retry_options
from airsmith.airflow.runtime import cluster_of, runtime_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.endpoint_change import ChangeRequest, EndpointChange, checked_change, make_change
from airsmith.pipeline.pages import ENDPOINT_PAGE, STAGE_SUMMARIES
from airsmith.recipe.form import form_schema
from airsmith.settings import Settings, load_settings

DAG_ID = "endpoint"
CHANGE, SMOKE_TEST = "change", "smoke_test"
ACTIONS = {
    "deploy": "Deploy a version, for all requests or as a canary",
    "shift_traffic": "Shift traffic to the canary",
    "roll_back": "Roll back to the previous version",
    "scale": "Scale: change the number of replicas",
    "stop": "Stop: delete all servers",
}
"""Labels of the form's choices."""


def endpoint_dag() -> DAG:
    """The DAG. It runs only when triggered, one change at a time."""
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
        # No retries: the user who requested the change decides, knowing why it failed.
        change = ChangeEndpointOperator(task_id=CHANGE, retries=0, doc_md=ENDPOINT_PAGE)
        change >> _smoke_test(settings)
    return dag


def form_params() -> dict[str, Param]:
    """The trigger form: one field for each field of a change."""
    fields = EndpointChange.model_json_schema()["properties"]
    return {name: Param(field.get("default"), **_schema(name, field)) for name, field in fields.items()}


class ChangeEndpointOperator(BaseOperator):
    """Make the change that the form describes. The smoke test is skipped if nothing new is served."""

    operator_extra_links = (EndpointLink(),)
    ui_color = "#e6f4ea"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.endpoint = ""
        self._changing = False

    def execute(self, context: Context) -> str:
        """Make the change.

        :returns: URI of the run whose smoke test checks it.
        :raises StageError: the subclass of the error's kind.
        :raises DownstreamTasksSkipped: if there is nothing to test.
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
        """Interrupt `execute`, within which Airflow calls this; it then undoes the unfinished change.

        :raises AirsmithError: `interrupted`, inside `execute`.
        """
        if self._changing:
            raise AirsmithError(ErrorKind.INTERRUPTED, "The change was interrupted.", "Trigger it again.")


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
