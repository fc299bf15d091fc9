"""JobSet (https://jobset.sigs.k8s.io): one indexed Job, whose pods reach the first by its host name."""

from __future__ import annotations

from typing import Any

from kubernetes.client import models as k8s

from airsmith.cluster.jobs.job_kind import (
    MASTER_PORT,
    JobState,
    Object,
    Resource,
    job_object,
    pod_template,
    state_by_conditions,
)

RESOURCE = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
COMPANION: Resource | None = None
CONTAINER = "base"

JOB = "node"
INDEX = "batch.kubernetes.io/job-completion-index"
_NAME = "jobset.sigs.k8s.io/jobset-name"


def render(name: str, pod: k8s.V1Pod, nodes: int) -> Object:
    """The job. torchrun's variables give each pod its node rank and the address of the first."""
    environment: list[Object] = [
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}},
        {"name": "PET_MASTER_ADDR", "value": f"{name}-{JOB}-0-0.{name}"},
        {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
    ]
    return job_object(RESOURCE, name, pod, spec_of_nodes(pod_template(pod, CONTAINER, environment), nodes, name))


def spec_of_nodes(template: Object, nodes: int, subdomain: str | None = None) -> dict[str, Any]:
    """A JobSet's spec: one pod per node. Pods do not restart: the task's next try resumes from a checkpoint."""
    job = {
        "parallelism": nodes,
        "completions": nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": template,
    }
    named = {"subdomain": subdomain} if subdomain else {}
    return {
        "failurePolicy": {"maxRestarts": 0},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, **named},
        "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}],
    }


def render_companion(name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
    """None: a JobSet needs no companion."""
    return None


def state_of(job: Object) -> JobState:
    """State of a job."""
    return state_by_conditions(job, "Completed")


def pods_selector(job: Object) -> str:
    """Label selector of the pods that train."""
    return f"{_NAME}={job['metadata']['name']}"


def leader_selector(job: Object) -> str:
    """Label selector of the first pod."""
    return f"{pods_selector(job)},{INDEX}=0"
