"""The DAG on a real cluster: every stage a pod, every artifact in the object store."""

from __future__ import annotations

import pytest
from conftest import Cluster, Deployment

from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES

RECIPE = {
    "model": {"id": "airsmith/tiny-llama"},
    "dataset": {"id": "airsmith/ticket-triage", "validation_split": "validation", "max_length": 192},
    "method": {"r": 4},
    "training": {"max_steps": 20, "total_train_batch_size": 8, "save_steps": 5, "logging_steps": 5},
    "evaluate": {"max_examples": 4, "max_new_tokens": 8},
    "serve": {"enabled": False},
}


@pytest.fixture(scope="session")
def dag_id(deployment: Deployment) -> str:
    return deployment.write_recipe("tiny", RECIPE)


@pytest.fixture(scope="session")
def first_log(deployment: Deployment, dag_id: str) -> str:
    return deployment.finish(deployment.start("dags", "test", dag_id))


@pytest.fixture(scope="session")
def first_run(deployment: Deployment, first_log: str) -> Run:
    return deployment.runs()[-1]


def test_every_stage_was_a_pod_and_points_to_its_output(first_run: Run, first_log: str, cluster: Cluster) -> None:
    for plan in first_run.read_spec().plan.stages:
        pointer = first_run.pointer(plan.stage)
        assert pointer is not None, plan.stage
        assert not pointer.cached
        assert f"tiny-{plan.stage.replace('_', '-')}-" in first_log
    assert not cluster.pods()


def test_a_second_run_starts_no_pod(deployment: Deployment, dag_id: str, first_run: Run) -> None:
    log = deployment.finish(deployment.start("dags", "test", dag_id))
    again = deployment.runs()[-1]
    assert again.path != first_run.path
    assert {status.state for status in again.statuses().values()} == {"cached"}
    assert "Building pod" not in log


def test_the_spec_names_the_images_by_digest(first_run: Run) -> None:
    images = first_run.read_spec().images
    assert set(images) == {plan.image for plan in first_run.read_spec().plan.stages}
    assert all("@sha256:" in reference for reference in images.values())
    assert "smoke_test" in STAGES
