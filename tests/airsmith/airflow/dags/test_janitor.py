"""The DAG `janitor`: its schedule, when it is unpaused, and its form."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from jsonschema import validate

from airsmith.airflow.dags.janitor import janitor_dag

DAGS = Path("dags").absolute()


def load_dag(monkeypatch: pytest.MonkeyPatch, **variables: str) -> DAG:
    for name, value in variables.items():
        monkeypatch.setenv(f"AIRSMITH_{name}", value)
    return janitor_dag()


def test_the_dag_is_loaded_and_can_be_serialized():
    bag = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags")
    dag = bag.dags["janitor"]
    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert set(again.task_ids) == {"tidy"}
    assert (again.max_active_runs, again.catchup) == (1, False)


def test_the_dag_is_unpaused_only_on_kubernetes(monkeypatch: pytest.MonkeyPatch):
    assert load_dag(monkeypatch).is_paused_upon_creation is True
    assert load_dag(monkeypatch, RUNTIME="kubernetes").is_paused_upon_creation is False


def test_the_settings_determine_the_schedule(monkeypatch: pytest.MonkeyPatch):
    assert load_dag(monkeypatch).schedule == timedelta(minutes=5)
    assert load_dag(monkeypatch, JANITOR__EVERY_MINUTES="30").schedule == timedelta(minutes=30)


def test_the_form_selects_the_kinds_to_delete(monkeypatch: pytest.MonkeyPatch):
    param = load_dag(monkeypatch).params.get_param("delete")
    schema: dict[str, Any] = param.schema
    assert param.value == []
    validate(["unfinished", "caches"], schema)
    assert schema["examples"] == ["unfinished", "uploads", "endpoints", "checkpoints", "caches"]
