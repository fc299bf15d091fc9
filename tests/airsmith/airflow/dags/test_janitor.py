"""The janitor's DAG is there beside the recipes', works at once where there are pods, and lets a person say more."""

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


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> DAG:
    for name, value in variables.items():
        monkeypatch.setenv(f"AIRSMITH_{name}", value)
    return janitor_dag()


def test_it_is_in_the_folder_of_dags_and_survives_serialization():
    bag = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags")
    dag = bag.dags["janitor"]
    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert set(again.task_ids) == {"tidy"}
    assert (again.max_active_runs, again.catchup) == (1, False)


def test_it_works_at_once_on_a_cluster_and_is_asked_for_elsewhere(monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch).is_paused_upon_creation is True
    assert loaded(monkeypatch, RUNTIME="kubernetes").is_paused_upon_creation is False


def test_the_settings_say_how_often(monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch).schedule == timedelta(minutes=5)
    assert loaded(monkeypatch, JANITOR__EVERY_MINUTES="30").schedule == timedelta(minutes=30)


def test_the_form_lets_a_person_remove_more(monkeypatch: pytest.MonkeyPatch):
    param = loaded(monkeypatch).params.get_param("delete")
    schema: dict[str, Any] = param.schema
    assert param.value == []
    validate(["unfinished", "caches"], schema)
    assert schema["examples"] == ["unfinished", "uploads", "endpoints", "checkpoints", "caches"]
