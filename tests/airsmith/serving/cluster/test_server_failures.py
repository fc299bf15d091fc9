"""The end of a server's container becomes the error that a person understands."""

from __future__ import annotations

import pytest
from kubernetes.client import models as k8s

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.server_failures import (
    RESTARTS_TOLERATED,
    ended_for_good,
    is_complete,
    progress,
    refusal_of,
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


def ended(exit_code: int, *, message: str = "", reason: str = "Error") -> k8s.V1ContainerStateTerminated:
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
    ("end", "log", "kind", "says"),
    [
        (ended(1), ENGINE_LOG, ErrorKind.INTERNAL, "exit code 1: ValueError: Load format `dummyx` is not supported"),
        (
            ended(1),
            CONFIG_LOG,
            ErrorKind.BAD_RECIPE,
            "max_model_len (100000) is greater than 512.",
        ),
        (ended(2), USAGE_LOG, ErrorKind.BAD_RECIPE, "arguments: unrecognized arguments: --max-model-length 256"),
        (ended(2), "", ErrorKind.BAD_RECIPE, "arguments: see its log"),
        (ended(137, reason="OOMKilled"), "", ErrorKind.OUT_OF_MEMORY, "its limit of 6Gi"),
        (ended(137), "", ErrorKind.KILLED, "exit code 137: it did not say why."),
        (ended(1, message="x\n" + STAGE_LINE), "", ErrorKind.VERIFICATION_FAILED, "config.json differs."),
    ],
)
def test_the_cause_is_told(end: k8s.V1ContainerStateTerminated, log: str, kind: ErrorKind, says: str):
    error = failure(end, log)
    assert error.kind is kind
    assert says in error.message
    assert error.hint


def test_the_termination_message_speaks_where_the_log_is_gone():
    assert "Load format" in failure(ended(1, message=ENGINE_LOG)).message


def test_what_is_no_server_has_no_arguments_of_the_recipes():
    assert failure(ended(2), USAGE_LOG, name="fetch").kind is ErrorKind.INTERNAL


@pytest.mark.parametrize("restarts", range(RESTARTS_TOLERATED + 1))
def test_bad_luck_is_tolerated_for_a_while(restarts: int):
    waiting = k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason="CrashLoopBackOff"))
    status = status_of(waiting, last=k8s.V1ContainerState(terminated=ended(137)), restarts=restarts)
    assert (ended_for_good(pod_with(status)) is status) == (restarts >= RESTARTS_TOLERATED)


def test_what_would_only_fail_again_is_given_up_at_once():
    status = status_of(k8s.V1ContainerState(terminated=ended(1, message=CONFIG_LOG)))
    assert ended_for_good(pod_with(status)) is status


def test_a_fetcher_that_is_done_has_not_failed():
    done = status_of(k8s.V1ContainerState(terminated=ended(0, reason="Completed")), name="fetch")
    running = status_of(k8s.V1ContainerState(running=k8s.V1ContainerStateRunning()))
    pod = pod_with(running, init=(done,))
    assert ended_for_good(pod) is None
    assert progress([pod], None) == "vllm at work"
    assert progress([], "exceeded quota") == "exceeded quota"
    assert progress([], None) == "no pod yet"


def test_what_stays_beside_a_server_is_not_what_is_waited_for():
    at_work = k8s.V1ContainerState(running=k8s.V1ContainerStateRunning())
    beside, export = status_of(at_work, name="publish"), status_of(at_work, name="export")
    beside.ready, export.ready = True, False
    waiting = status_of(k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason="ContainerCreating")))
    assert progress([pod_with(waiting, init=(export,))], None) == "export at work"
    assert progress([pod_with(waiting, init=(beside,))], None) == "pending"


def test_an_unschedulable_pod_is_told_in_the_schedulers_words():
    pod = pod_with()
    pod.status.conditions = [
        k8s.V1PodCondition(type="PodScheduled", status="False", message="0/2 nodes: 2 Insufficient memory.")
    ]
    assert progress([pod], None) == "unschedulable (0/2 nodes: 2 Insufficient memory.)"


def deployment(
    *, generation: int = 2, observed: int | None = 2, wanted: int = 2, available: int | None = 2
) -> k8s.V1Deployment:
    return k8s.V1Deployment(
        metadata=k8s.V1ObjectMeta(generation=generation),
        spec=k8s.V1DeploymentSpec(replicas=wanted, selector=k8s.V1LabelSelector(), template=k8s.V1PodTemplateSpec()),
        status=k8s.V1DeploymentStatus(observed_generation=observed, available_replicas=available),
    )


def test_a_server_is_up_when_all_that_are_wanted_now_answer():
    assert is_complete(deployment())
    assert not is_complete(None)
    assert not is_complete(deployment(observed=None))
    assert not is_complete(deployment(generation=3))
    assert not is_complete(deployment(available=1))
    assert not is_complete(deployment(wanted=0, available=None))


def test_what_lets_no_pod_in_is_heard():
    refused = deployment()
    condition = k8s.V1DeploymentCondition(type="ReplicaFailure", status="True", message="exceeded quota: small")
    refused.status.conditions = [condition]
    assert refusal_of(refused) == "exceeded quota: small"
    condition.status = "False"
    assert refusal_of(refused) is None
    assert refusal_of(None) is None
