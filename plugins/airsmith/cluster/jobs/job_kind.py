"""What a job kind's module says: how its jobs are written and read. Nothing here asks a cluster or knows Airflow."""

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

LONGEST_JOB_NAME = 40
"""Job kinds add to a job's name what tells its pods apart; of a RayJob's they take 47 characters."""
MASTER_PORT = 29500
_KUEUE = "kueue.x-k8s.io/"


class JobPhase(str, Enum):
    """How far a job is."""

    QUEUED = "queued"
    WORKING = "working"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class JobState:
    """A job as its job kind sees it.

    :param message: why it failed, in the job kind's words.
    """

    phase: JobPhase
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it works any more."""
        return self.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)


@dataclass(frozen=True)
class Resource:
    """Where the API server keeps objects of a kind."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Group and version, as objects name them."""
        return f"{self.group}/{self.version}"


class JobKind(Protocol):
    """A module of this package.

    :ivar RESOURCE: of its jobs.
    :ivar COMPANION: of an object of the job's name that the job needs as long as it is there, also while it is being
        deleted: made before it, and removed after it, by the task's next try or the janitor.
    :ivar CONTAINER: name of the stage's container in the pods.
    """

    RESOURCE: Resource
    COMPANION: Resource | None
    CONTAINER: str

    def render(self, name: str, pod: k8s.V1Pod, nodes: int) -> Object:
        """The job.

        :param pod: the stage's, as it were on one node.
        """

    def render_companion(self, name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
        """What the job needs beside it."""

    def state_of(self, job: Object) -> JobState:
        """How far a job is."""

    def pods_selector(self, job: Object) -> str:
        """Labels of the pods that train."""

    def leader_selector(self, job: Object) -> str:
        """Labels of the pod whose log is the training's."""


def job_object(resource: Resource, name: str, pod: k8s.V1Pod, spec: Object) -> dict[str, Any]:
    """A job with the labels and annotations of the stage's pod, which queue it and say whose it is."""
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
    """The stage's pod as a template of several, spread over nodes where there is room.

    A queue admits the whole job: its pods carry no label for it.

    :param container: name of the stage's container.
    :param environment: further variables.
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
    """Labels without those that hand an object to a queue."""
    return {name: value for name, value in labels.items() if not name.startswith(_KUEUE)}


def is_suspended(job: Object) -> bool:
    """Whether a queue, or a person, holds a job back."""
    return bool(job["spec"].get("suspend"))


def state_by_conditions(job: Object, succeeded: str) -> JobState:
    """How far a job is whose status tells conditions.

    :param succeeded: type of the condition that holds when it has ended well; the other one is `Failed`.
    """
    said = job.get("status", {}).get("conditions") or ()
    holding = {
        each["type"]: str(each.get("message") or each.get("reason")) for each in said if each["status"] == "True"
    }
    if succeeded in holding:
        return JobState(JobPhase.SUCCEEDED)
    if "Failed" in holding:
        return JobState(JobPhase.FAILED, holding["Failed"])
    return JobState(JobPhase.QUEUED if is_suspended(job) else JobPhase.WORKING)
