"""The DAG `endpoint`: a form that explains itself, two tasks, and words for who fills it in wrongly."""

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
from airsmith.registry import Deployment, swap_endpoint
from airsmith.settings import Settings

DAGS = Path("dags").absolute()


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> DAG:
    monkeypatch.setenv("AIRSMITH_STORE", settings.store)
    return endpoint_dag()


def execute(dag: DAG, **form: Any) -> Any:
    params = {**{name: dag.params[name] for name in dag.params}, **form}
    return dag.get_task("change").execute({"params": params, "dag": dag, "run_id": "manual__1"})


def test_it_is_in_the_folder_of_dags_and_survives_serialization():
    dag = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags").dags["endpoint"]
    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert {task.task_id: task.downstream_task_ids for task in again.tasks} == {
        "change": {"smoke_test"},
        "smoke_test": set(),
    }
    assert (again.max_active_runs, again.timetable.can_be_scheduled) == (1, False)


def test_it_waits_for_a_person_alone(dag: DAG):
    assert (dag.schedule, dag.is_paused_upon_creation) == (None, False)
    assert dag.get_task("change").retries == 0


@pytest.mark.parametrize(
    ("runtime", "operator"), [("local", "LocalStageOperator"), ("kubernetes", "KubernetesSmokeTestOperator")]
)
def test_the_proof_runs_where_stages_run(monkeypatch: pytest.MonkeyPatch, runtime: str, operator: str):
    monkeypatch.setenv("AIRSMITH_RUNTIME", runtime)
    proof = endpoint_dag().get_task("smoke_test")
    assert type(proof).__name__ == operator
    assert (proof.stage, proof.run_uri) == ("smoke_test", "{{ ti.xcom_pull(task_ids='change') }}")


def test_every_field_of_the_form_explains_itself(dag: DAG):
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
def test_airflow_refuses_what_no_action_could_mean(dag: DAG, field: str, value: object):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, dag.params.get_param(field).schema)


def test_who_fills_it_in_wrongly_is_told_in_words(dag: DAG):
    with pytest.raises(BadRecipeError, match=r"The action scale needs replicas\. Fill in endpoint, replicas\."):
        execute(dag, action="scale", endpoint="tickets")


def test_where_nothing_new_is_served_nothing_is_proved(dag: DAG, settings: Settings):
    gone = Deployment(engine="vllm", address="http://gone", model_name="tickets", model_uri="m", deployment="d")
    swap_endpoint(Store.open(settings.store), "tickets", gone)
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        execute(dag, action="stop", endpoint="tickets")
    assert skipped.value.tasks == ["smoke_test"]


def test_who_kills_the_task_interrupts_a_change_and_nothing_else(dag: DAG, monkeypatch: pytest.MonkeyPatch):
    change = dag.get_task("change")
    monkeypatch.setattr("airsmith.airflow.dags.endpoint.make_change", lambda *_: change.on_kill())
    with pytest.raises(StageInterruptedError, match="told to stop"):
        execute(dag, action="stop", endpoint="tickets")
    change.on_kill()
