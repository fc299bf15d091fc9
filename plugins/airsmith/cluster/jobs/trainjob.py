"""Kubeflow Trainer (https://www.kubeflow.org/docs/components/trainer): a TrainJob on a TrainingRuntime of its own.

The runtime holds the pod template, because a TrainJob can express only part of one. Trainer sets torchrun's variables
and creates a JobSet.
"""

from __future__ import annotations

from kubernetes.client import models as k8s

from airsmith.cluster.jobs import jobset
from airsmith.cluster.jobs.job_kind import (
    JobState,
    Object,
    Resource,
    job_object,
    pod_template,
    state_by_conditions,
    unqueued,
)

RESOURCE = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
COMPANION: Resource | None = Resource(RESOURCE.group, RESOURCE.version, "trainingruntimes", "TrainingRuntime")
CONTAINER = "node"
"""The container in which Trainer sets torchrun's variables."""

_STEP, _TRAINER = "trainer.kubeflow.org/trainjob-ancestor-step", "trainer"


def render(name: str, pod: k8s.V1Pod, nodes: int) -> Object:
    """The job."""
    assert COMPANION is not None
    runtime = {"apiGroup": COMPANION.group, "kind": COMPANION.kind, "name": name}
    return job_object(RESOURCE, name, pod, {"runtimeRef": runtime, "trainer": {"numNodes": nodes}})


def render_companion(name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
    """The TrainingRuntime."""
    assert COMPANION is not None
    # One: the stage's own torchrun starts the processes of a node.
    policy = {"numNodes": nodes, "torch": {"numProcPerNode": 1}}
    jobs = jobset.spec_of_nodes(pod_template(pod, CONTAINER), nodes)
    template = jobs["replicatedJobs"][0]["template"]
    template["metadata"] = {"labels": {_STEP: _TRAINER}}
    for counted_by_trainer in ("parallelism", "completions", "completionMode"):
        del template["spec"][counted_by_trainer]
    runtime = job_object(COMPANION, name, pod, {"mlPolicy": policy, "template": {"spec": jobs}})
    runtime["metadata"]["labels"] = {**unqueued(pod.metadata.labels), "trainer.kubeflow.org/framework": "torch"}
    return runtime


def state_of(job: Object) -> JobState:
    """How far a job is."""
    return state_by_conditions(job, "Complete")


def pods_selector(job: Object) -> str:
    """Labels of the pods that train."""
    return jobset.pods_selector(job)


def leader_selector(job: Object) -> str:
    """Labels of the first pod."""
    return jobset.leader_selector(job)
