"""How the trigger of a training job evaluates pods. Its calls of a cluster are tested in tests/cluster."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from kubernetes.client import models as k8s

from airsmith.airflow.triggers.job import UNSTARTABLE_SECONDS, TrainingJobTrigger
from airsmith.errors import AirsmithError, ErrorKind, most_telling

STARTUP_SECONDS = 300


@pytest.fixture
def trigger() -> TrainingJobTrigger:
    return TrainingJobTrigger(
        job_kind="jobset",
        name="a-train-0badcafe",
        namespace="airsmith",
        kubernetes_conn_id=None,
        stage="train",
        nodes=2,
        startup_seconds=STARTUP_SECONDS,
        timeout_seconds=3600,
    )


def pod(uid: str, phase: str, age_seconds: float, waiting: str = "", exit_code: int | None = None) -> k8s.V1Pod:
    state = k8s.V1ContainerState(
        waiting=k8s.V1ContainerStateWaiting(reason=waiting, message="no such image") if waiting else None,
        terminated=None if exit_code is None else k8s.V1ContainerStateTerminated(exit_code=exit_code),
    )
    status = k8s.V1ContainerStatus(
        name="base", state=state, image="i", image_id="", ready=False, restart_count=0, started=False
    )
    created = datetime.now(timezone.utc) - timedelta(seconds=age_seconds)
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(uid=uid, name=uid, creation_timestamp=created),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")], node_name="node-0"),
        status=k8s.V1PodStatus(phase=phase, container_statuses=[status]),
    )


def test_the_trigger_round_trips_through_serialization(trigger: TrainingJobTrigger) -> None:
    path, arguments = trigger.serialize()
    assert path == "airsmith.airflow.triggers.job.TrainingJobTrigger"
    assert TrainingJobTrigger(**arguments).serialize() == (path, arguments)


def test_pods_that_exceed_the_startup_timeout_have_not_started(trigger: TrainingJobTrigger) -> None:
    assert trigger._overdue([pod("a", "Running", 9), pod("b", "Pending", STARTUP_SECONDS - 9)], 9) is None
    assert trigger._overdue([pod("a", "Running", 9), pod("b", "Pending", STARTUP_SECONDS + 9)], 9) == "not_started"


def test_a_failing_image_pull_has_a_shorter_timeout(trigger: TrainingJobTrigger) -> None:
    young, old = (pod("a", "Pending", UNSTARTABLE_SECONDS + more, waiting="ImagePullBackOff") for more in (-9, 9))
    assert trigger._overdue([young], 9) is None
    assert trigger._overdue([old], 9) == "not_started"
    error = most_telling(trigger._errors.values())
    assert error is not None
    assert error.kind is ErrorKind.IMAGE_PULL_FAILED


def test_a_job_without_pods_has_not_started(trigger: TrainingJobTrigger) -> None:
    assert trigger._overdue([], 9) is None
    trigger._admitted_at -= timedelta(seconds=STARTUP_SECONDS + 9)
    assert trigger._overdue([pod("a", "Running", STARTUP_SECONDS)], 9) == "not_started"


def test_deleted_pods_that_were_running_are_not_a_failed_start(trigger: TrainingJobTrigger) -> None:
    trigger._admitted_at -= timedelta(seconds=STARTUP_SECONDS + 9)
    assert trigger._overdue([pod("a", "Running", 900), pod("b", "Running", 900)], 900) is None
    assert trigger._overdue([], 900) is None


def test_the_timeout_counts_from_the_start_of_the_pods(trigger: TrainingJobTrigger) -> None:
    running = [pod("a", "Running", 9), pod("b", "Running", 9)]
    assert trigger._overdue(running, 3599) is None
    assert trigger._overdue(running, 3601) == "timeout"


def test_of_several_failures_the_root_cause_is_reported(trigger: TrainingJobTrigger) -> None:
    disconnected = pod("a", "Failed", 60, exit_code=1)
    message = AirsmithError(ErrorKind.KILLED, "Another process of the training went away.", "").to_json_line()
    disconnected.status.container_statuses[0].state.terminated.message = message
    out_of_memory = pod("b", "Failed", 60, exit_code=137)
    out_of_memory.status.container_statuses[0].state.terminated.reason = "OOMKilled"
    out_of_memory.spec.containers[0].resources = k8s.V1ResourceRequirements(limits={"memory": "3Gi"})
    trigger._record_errors([disconnected, out_of_memory])
    error = most_telling(trigger._errors.values())
    assert error is not None
    assert error.kind is ErrorKind.OUT_OF_MEMORY
