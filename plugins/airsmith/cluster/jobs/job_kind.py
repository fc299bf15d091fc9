"""The interface of a job kind: how its jobs are rendered and how their status is read. Nothing here sends a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from airsmith.cluster.labels import PREFIX

Object = Mapping[str, Any]
"""An object of the API server as JSON."""

MAX_JOB_NAME_LENGTH = 40
"""Job kinds add suffixes to a job's name for its pods; a RayJob's name may have 47 characters."""
MASTER_PORT = 29500
_KUEUE = "kueue.x-k8s.io/"


class JobPhase(str, Enum):
    """Phase of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class JobState:
    """State of a job.

    :param message: why it failed, as its controller reports it.
    """

    phase: JobPhase
    message: str = ""

    @property
    def has_finished(self) -> bool:
        """Whether it has succeeded or failed."""
        return self.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)


@dataclass(frozen=True)
class Resource:
    """A kind of object in the API server."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Group and version, as in an object's `apiVersion`."""
        return f"{self.group}/{self.version}"


class JobKind(Protocol):
    """A module of this package.

    :ivar RESOURCE: resource of its jobs.
    :ivar COMPANION: resource of an object with the job's name that the job needs until it is deleted. It is created
        before the job and deleted after it, by the task's next try or the janitor.
    :ivar CONTAINER: name of the stage's container in the pods.
    """

    RESOURCE: Resource
    COMPANION: Resource | None
    CONTAINER: str

    def render(self, name: str, pod: k8s.V1Pod, nodes: int) -> Object:
        """The job.

        :param pod: the stage's pod for a single node.
        """

    def render_companion(self, name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
        """The job's companion object, if it needs one."""

    def state_of(self, job: Object) -> JobState:
        """State of a job."""

    def pods_selector(self, job: Object) -> str:
        """Label selector of the pods that train."""

    def leader_selector(self, job: Object) -> str:
        """Label selector of the pod whose log is the training's log."""


def job_object(resource: Resource, name: str, pod: k8s.V1Pod, spec: Object) -> dict[str, Any]:
    """A job with the labels and annotations of the stage's pod: its queue, owner and run."""
    metadata = pod.metadata
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": dict(metadata.labels),
            "annotations": dict(metadata.annotations),
        },
        "spec": spec,
    }


def pod_template(pod: k8s.V1Pod, container: str, environment: Sequence[Object] = ()) -> dict[str, Any]:
    """The stage's pod as a pod template, spread over nodes if possible.

    The queue's labels are left out: the queue admits the job as a whole.

    :param container: name of the stage's container.
    :param environment: additional variables.
    """
    rendered: dict[str, Any] = ApiClient().sanitize_for_serialization(pod)
    labels = unqueued(rendered["metadata"]["labels"])
    own = {name: value for name, value in labels.items() if name.startswith(PREFIX)}
    rendered["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": own},
        }
    ]
    first = rendered["spec"]["containers"][0]
    first["name"] = container
    first["env"] = [*first.get("env", ()), *environment]
    return {
        "metadata": {"labels": labels, "annotations": rendered["metadata"]["annotations"]},
        "spec": rendered["spec"],
    }


def unqueued(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels without those of the queue."""
    return {name: value for name, value in labels.items() if not name.startswith(_KUEUE)}


def is_suspended(job: Object) -> bool:
    """Whether a queue or a user has suspended the job."""
    return bool(job["spec"].get("suspend"))


def state_by_conditions(job: Object, succeeded: str) -> JobState:
    """State of a job whose status has conditions.

    :param succeeded: type of the condition that is true after success; the one of a failure is `Failed`.
    """
    conditions = job.get("status", {}).get("conditions") or ()
    true = {
        each["type"]: str(each.get("message") or each.get("reason")) for each in conditions if each["status"] == "True"
    }
    if succeeded in true:
        return JobState(JobPhase.SUCCEEDED)
    if "Failed" in true:
        return JobState(JobPhase.FAILED, true["Failed"])
    return JobState(JobPhase.QUEUED if is_suspended(job) else JobPhase.RUNNING)
