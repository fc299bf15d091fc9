"""The failure of a server's container maps to an error with its cause."""

from __future__ import annotations

import pytest
from kubernetes.client import models as k8s

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.server_failures import (
    MAX_RESTARTS,
    describe_progress,
    failed_container,
    is_complete,
    pod_creation_error,
    server_failure,
)

ENGINE_LOG = """\
(APIServer pid=1) WARNING 11-23 11:26:31 [system_utils.py:255] This can cause errors like `OSError: [Errno 24] Too many`
(Worker pid=38) ERROR 11-23 11:26:53 [multiproc_executor.py:953] ValueError: Load format `dummyx` is not supported
(EngineCore pid=25) ERROR 11-23 11:26:53 [core.py:1] Exception: WorkerProc failed. See stack trace for root cause.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
CONFIG_LOG = """\
Traceback (most recent call last):
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (100000) is greater than 512. [type=value_error, input_value=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
USAGE_LOG = """\
usage: api_server.py [-h] [--headless]
api_server.py: error: unrecognized arguments: --max-model-length 256
"""
STAGE_LINE = AirsmithError(ErrorKind.VERIFICATION_FAILED, "config.json differs.", "Delete it.").to_json_line()


def terminated(exit_code: int, *, message: str = "", reason: str = "Error") -> k8s.V1ContainerStateTerminated:
    return k8s.V1ContainerStateTerminated(exit_code=exit_code, message=message, reason=reason)


def status_of(
    state: k8s.V1ContainerState, *, name: str = "vllm", last: k8s.V1ContainerState | None = None, restarts: int = 0
) -> k8s.V1ContainerStatus:
    return k8s.V1ContainerStatus(
        name=name, image="i", image_id="", ready=False, restart_count=restarts, state=state, last_state=last
    )


def pod_with(*statuses: k8s.V1ContainerStatus, init: tuple[k8s.V1ContainerStatus, ...] = ()) -> k8s.V1Pod:
    resources = k8s.V1ResourceRequirements(limits={"memory": "6Gi"})
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="triage-1"),
        spec=k8s.V1PodSpec(
            containers=[k8s.V1Container(name="vllm", resources=resources)],
            init_containers=[k8s.V1Container(name="fetch", resources=resources)],
        ),
        status=k8s.V1PodStatus(phase="Pending", container_statuses=list(statuses), init_container_statuses=list(init)),
    )


def failure(end: k8s.V1ContainerStateTerminated, log: str = "", name: str = "vllm") -> AirsmithError:
    status = status_of(k8s.V1ContainerState(terminated=end), name=name)
    return server_failure(pod_with(status), status, log)


@pytest.mark.parametrize(
    ("end", "log", "kind", "message"),
    [
        (
            terminated(1),
            ENGINE_LOG,
            ErrorKind.INTERNAL,
            "exited with code 1: ValueError: Load format `dummyx` is not supported",
        ),
        (
            terminated(1),
            CONFIG_LOG,
            ErrorKind.BAD_RECIPE,
            "max_model_len (100000) is greater than 512.",
        ),
        (terminated(2), USAGE_LOG, ErrorKind.BAD_RECIPE, "arguments: unrecognized arguments: --max-model-length 256"),
        (terminated(2), "", ErrorKind.BAD_RECIPE, "arguments: see its log"),
        (terminated(137, reason="OOMKilled"), "", ErrorKind.OUT_OF_MEMORY, "its memory limit of 6Gi"),
        (terminated(137), "", ErrorKind.KILLED, "exited with code 137: no reason was reported."),
        (terminated(1, message="x\n" + STAGE_LINE), "", ErrorKind.VERIFICATION_FAILED, "config.json differs."),
    ],
)
def test_a_terminated_container_maps_to_its_cause(
    end: k8s.V1ContainerStateTerminated, log: str, kind: ErrorKind, message: str
):
    error = failure(end, log)
    assert error.kind is kind
    assert message in error.message
    assert error.hint


def test_the_termination_message_is_used_without_a_log():
    assert "Load format" in failure(terminated(1, message=ENGINE_LOG)).message


def test_a_usage_error_outside_the_server_is_internal():
    assert failure(terminated(2), USAGE_LOG, name="fetch").kind is ErrorKind.INTERNAL


@pytest.mark.parametrize("restarts", range(MAX_RESTARTS + 1))
def test_a_few_restarts_are_tolerated(restarts: int):
    waiting = k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason="CrashLoopBackOff"))
    status = status_of(waiting, last=k8s.V1ContainerState(terminated=terminated(137)), restarts=restarts)
    assert (failed_container(pod_with(status)) is status) == (restarts >= MAX_RESTARTS)


def test_a_permanent_error_fails_immediately():
    status = status_of(k8s.V1ContainerState(terminated=terminated(1, message=CONFIG_LOG)))
    assert failed_container(pod_with(status)) is status


def test_a_completed_init_container_has_not_failed():
    done = status_of(k8s.V1ContainerState(terminated=terminated(0, reason="Completed")), name="fetch")
    running = status_of(k8s.V1ContainerState(running=k8s.V1ContainerStateRunning()))
    pod = pod_with(running, init=(done,))
    assert failed_container(pod) is None
    assert describe_progress([pod], None) == "vllm running"
    assert describe_progress([], "exceeded quota") == "exceeded quota"
    assert describe_progress([], None) == "no pod yet"


def test_a_ready_sidecar_is_not_reported_as_progress():
    running = k8s.V1ContainerState(running=k8s.V1ContainerStateRunning())
    sidecar, export = status_of(running, name="publish"), status_of(running, name="export")
    sidecar.ready, export.ready = True, False
    waiting = status_of(k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason="ContainerCreating")))
    assert describe_progress([pod_with(waiting, init=(export,))], None) == "export running"
    assert describe_progress([pod_with(waiting, init=(sidecar,))], None) == "pending"


def test_an_unschedulable_pod_is_reported_with_the_message_of_the_scheduler():
    pod = pod_with()
    pod.status.conditions = [
        k8s.V1PodCondition(type="PodScheduled", status="False", message="0/2 nodes: 2 Insufficient memory.")
    ]
    assert describe_progress([pod], None) == "unschedulable (0/2 nodes: 2 Insufficient memory.)"


def deployment(
    *, generation: int = 2, observed: int | None = 2, wanted: int = 2, available: int | None = 2
) -> k8s.V1Deployment:
    return k8s.V1Deployment(
        metadata=k8s.V1ObjectMeta(generation=generation),
        spec=k8s.V1DeploymentSpec(replicas=wanted, selector=k8s.V1LabelSelector(), template=k8s.V1PodTemplateSpec()),
        status=k8s.V1DeploymentStatus(observed_generation=observed, available_replicas=available),
    )


def test_a_deployment_is_complete_if_all_current_replicas_are_available():
    assert is_complete(deployment())
    assert not is_complete(None)
    assert not is_complete(deployment(observed=None))
    assert not is_complete(deployment(generation=3))
    assert not is_complete(deployment(available=1))
    assert not is_complete(deployment(wanted=0, available=None))


def test_a_replica_failure_is_reported():
    refused = deployment()
    condition = k8s.V1DeploymentCondition(type="ReplicaFailure", status="True", message="exceeded quota: small")
    refused.status.conditions = [condition]
    assert pod_creation_error(refused) == "exceeded quota: small"
    condition.status = "False"
    assert pod_creation_error(refused) is None
    assert pod_creation_error(None) is None
