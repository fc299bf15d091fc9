"""What the trigger makes of the pods that it sees. All that it does with a cluster is tested on one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from kubernetes.client import models as k8s

from airsmith.airflow.triggers.job import HOPELESS_SECONDS, TrainingJobTrigger
from airsmith.errors import AirsmithError, ErrorKind, most_telling

STARTUP_SECONDS = 300


@pytest.fixture
def trigger() -> TrainingJobTrigger:
    return TrainingJobTrigger(
        engine="jobset",
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


def test_it_is_made_again_with_all_that_it_knows(trigger: TrainingJobTrigger) -> None:
    path, arguments = trigger.serialize()
    assert path == "airsmith.airflow.triggers.job.TrainingJobTrigger"
    assert TrainingJobTrigger(**arguments).serialize() == (path, arguments)


def test_pods_have_the_startup_timeout_to_start_in(trigger: TrainingJobTrigger) -> None:
    assert trigger._ending([pod("a", "Running", 9), pod("b", "Pending", STARTUP_SECONDS - 9)], 9) is None
    assert trigger._ending([pod("a", "Running", 9), pod("b", "Pending", STARTUP_SECONDS + 9)], 9) == "not_started"


def test_an_image_that_does_not_come_is_not_waited_for_as_long(trigger: TrainingJobTrigger) -> None:
    young, old = (pod("a", "Pending", HOPELESS_SECONDS + more, waiting="ImagePullBackOff") for more in (-9, 9))
    assert trigger._ending([young], 9) is None
    assert trigger._ending([old], 9) == "not_started"
    error = most_telling(trigger._seen.values())
    assert error is not None
    assert error.kind is ErrorKind.IMAGE_PULL_FAILED


def test_a_job_whose_pods_nobody_makes_has_not_started(trigger: TrainingJobTrigger) -> None:
    assert trigger._ending([], 9) is None
    trigger._turn_came -= timedelta(seconds=STARTUP_SECONDS + 9)
    assert trigger._ending([pod("a", "Running", STARTUP_SECONDS)], 9) == "not_started"


def test_pods_that_were_at_work_and_are_gone_are_no_matter_of_a_start(trigger: TrainingJobTrigger) -> None:
    trigger._turn_came -= timedelta(seconds=STARTUP_SECONDS + 9)
    assert trigger._ending([pod("a", "Running", 900), pod("b", "Running", 900)], 900) is None
    assert trigger._ending([], 900) is None


def test_a_timeout_runs_from_the_pods_beginning(trigger: TrainingJobTrigger) -> None:
    at_work = [pod("a", "Running", 9), pod("b", "Running", 9)]
    assert trigger._ending(at_work, 3599) is None
    assert trigger._ending(at_work, 3601) == "timeout"


def test_of_several_ends_the_one_that_explains_the_others_is_told(trigger: TrainingJobTrigger) -> None:
    lonely = pod("a", "Failed", 60, exit_code=1)
    told = AirsmithError(ErrorKind.KILLED, "Another process of the training went away.", "").to_json_line()
    lonely.status.container_statuses[0].state.terminated.message = told
    greedy = pod("b", "Failed", 60, exit_code=137)
    greedy.status.container_statuses[0].state.terminated.reason = "OOMKilled"
    greedy.spec.containers[0].resources = k8s.V1ResourceRequirements(limits={"memory": "3Gi"})
    trigger._keep_in_mind([lonely, greedy])
    error = most_telling(trigger._seen.values())
    assert error is not None
    assert error.kind is ErrorKind.OUT_OF_MEMORY
