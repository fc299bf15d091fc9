"""The DAG `endpoint`: its form, its two tasks, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import DownstreamTasksSkipped
from airflow.serialization.serialized_objects import DagSerialization

from airsmith.airflow.dags.endpoint import endpoint_dag
from airsmith.artifacts.store import Store
from airsmith.errors.stage_errors import BadRecipeError, StageInterruptedError
from airsmith.registry import record_current
from airsmith.settings import Settings
from tests.support.registry import new_revision

DAGS = Path("dags").absolute()


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> DAG:
    monkeypatch.setenv("AIRSMITH_STORE", settings.store)
    return endpoint_dag()


def execute(dag: DAG, **form: Any) -> Any:
    params = {**{name: dag.params[name] for name in dag.params}, **form}
    return dag.get_task("change").execute({"params": params, "dag": dag, "run_id": "manual__1"})


def test_the_dag_is_loaded_and_can_be_serialized():
    dag = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags").dags["endpoint"]
    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert {task.task_id: task.downstream_task_ids for task in again.tasks} == {
        "change": {"smoke_test"},
        "smoke_test": set(),
    }
    assert (again.max_active_runs, again.timetable.can_be_scheduled) == (1, False)


def test_the_dag_is_unscheduled_and_unpaused(dag: DAG):
    assert (dag.schedule, dag.is_paused_upon_creation) == (None, False)
    assert dag.get_task("change").retries == 0


@pytest.mark.parametrize(
    ("runtime", "operator"), [("local", "LocalStageOperator"), ("kubernetes", "KubernetesSmokeTestOperator")]
)
def test_the_smoke_test_runs_on_the_runtime_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, runtime: str, operator: str
):
    monkeypatch.setenv("AIRSMITH_RUNTIME", runtime)
    task = endpoint_dag().get_task("smoke_test")
    assert type(task).__name__ == operator
    assert (task.stage, task.run_uri) == ("smoke_test", "{{ ti.xcom_pull(task_ids='change') }}")


def test_every_form_field_has_a_title_and_a_description(dag: DAG):
    for name in dag.params:
        param = dag.params.get_param(name)
        jsonschema.Draft202012Validator.check_schema(param.schema)
        assert param.schema["title"], name
        assert param.schema["description_md"].endswith("."), name
        assert "anyOf" not in param.schema, name
        assert "section" not in param.schema, name
    action = dag.params.get_param("action").schema
    assert set(action["values_display"]) == set(action["enum"])
    dag.params.validate()
    json.dumps(dag.params.dump())


@pytest.mark.parametrize(
    ("field", "value"),
    [("action", "explode"), ("percent", 101), ("replicas", 0), ("version", "newest"), ("endpoint", "A b")],
)
def test_the_form_refuses_invalid_values(dag: DAG, field: str, value: object):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, dag.params.get_param(field).schema)


def test_a_missing_value_is_reported_with_the_fields_to_fill_in(dag: DAG):
    with pytest.raises(BadRecipeError, match=r"The action scale requires replicas\. Fill in endpoint, replicas\."):
        execute(dag, action="scale", endpoint="tickets")


def test_the_smoke_test_is_skipped_if_nothing_is_deployed(dag: DAG, settings: Settings):
    gone = new_revision("tickets", address="http://gone")
    record_current(Store.open(settings.store), "tickets", gone)
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        execute(dag, action="stop", endpoint="tickets")
    assert skipped.value.tasks == ["smoke_test"]


def test_killing_the_task_interrupts_only_a_running_change(dag: DAG, monkeypatch: pytest.MonkeyPatch):
    change = dag.get_task("change")
    monkeypatch.setattr("airsmith.airflow.dags.endpoint.make_change", lambda *_: change.on_kill())
    with pytest.raises(StageInterruptedError, match="was interrupted"):
        execute(dag, action="stop", endpoint="tickets")
    change.on_kill()
