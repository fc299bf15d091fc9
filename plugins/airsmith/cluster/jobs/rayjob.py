"""KubeRay (https://docs.ray.io/en/latest/cluster/kubernetes): a RayJob with its own Ray cluster.

The job's driver runs on the head node, which trains like the others; `airsmith_stages.ray_nodes` starts the stage on
each node. Another pod submits the job and shows its log.
"""

from __future__ import annotations

import copy
import shlex
from typing import Any

from kubernetes.client import models as k8s

from airsmith.cluster.jobs.job_kind import (
    JobPhase,
    JobState,
    Object,
    Resource,
    is_suspended,
    job_object,
    pod_template,
)

RESOURCE = Resource("ray.io", "v1", "rayjobs", "RayJob")
COMPANION: Resource | None = None
CONTAINER = "base"

TTL_SECONDS = 300
"""Time until KubeRay deletes the Ray cluster of a finished job: time to find out why it failed."""
OBJECT_STORE_BYTES = 100_000_000
"""Small: the nodes exchange no tensors through Ray."""

_MODULE = "airsmith_stages.ray_nodes"
_ENVIRONMENT = (
    {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
    {"name": "RAY_COLOR_PREFIX", "value": "0"},
    {"name": "COLORFUL_DISABLE", "value": "1"},
    {"name": "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "value": "1"},  # The stage uses all devices of its pod.
)
_SUBMITTER_RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}


def render(name: str, pod: k8s.V1Pod, nodes: int) -> Object:
    """The job."""
    container = pod.spec.containers[0]
    entrypoint = ["python", "-m", _MODULE, "run", "--nodes", str(nodes), *_threads(container), *container.args]
    spec = {
        "entrypoint": shlex.join(entrypoint),
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "submitterPodTemplate": _submitter(pod),
        "rayClusterSpec": {
            "headGroupSpec": {
                # Ray schedules nothing on the head node: the driver itself trains there.
                "rayStartParams": {**_start("0"), "dashboard-host": "0.0.0.0"},
                "template": _node(pod),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "node",
                    "replicas": nodes - 1,
                    "minReplicas": nodes - 1,
                    "maxReplicas": nodes - 1,
                    "rayStartParams": _start("1"),
                    "template": _node(pod),
                }
            ],
        },
    }
    return job_object(RESOURCE, name, pod, spec)


def render_companion(name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
    """None: a RayJob needs no companion."""
    return None


def state_of(job: Object) -> JobState:
    """State of a job."""
    status = job.get("status", {})
    deployed, ended = status.get("jobDeploymentStatus"), status.get("jobStatus")
    if ended == "SUCCEEDED" and deployed == "Complete":
        return JobState(JobPhase.SUCCEEDED)
    if deployed == "Failed" or (deployed == "Complete" and ended != "SUCCEEDED"):
        return JobState(JobPhase.FAILED, str(status.get("message") or status.get("reason") or ended))
    return JobState(JobPhase.QUEUED if is_suspended(job) else JobPhase.RUNNING)


def pods_selector(job: Object) -> str:
    """Label selector of the pods that train; it matches none until the Ray cluster exists."""
    return f"ray.io/cluster={job.get('status', {}).get('rayClusterName') or 'none-yet'}"


def leader_selector(job: Object) -> str:
    """Label selector of the pod that shows the driver's log."""
    return f"batch.kubernetes.io/job-name={job['metadata']['name']}"


def _threads(container: k8s.V1Container) -> list[str]:
    """The option with the stage's OMP_NUM_THREADS, because Ray overwrites that variable in the processes it starts."""
    wanted = next((variable.value for variable in container.env or () if variable.name == "OMP_NUM_THREADS"), None)
    return ["--threads", wanted] if wanted else []


def _start(cpus: str) -> dict[str, str]:
    return {"num-cpus": cpus, "object-store-memory": str(OBJECT_STORE_BYTES)}


def _node(pod: k8s.V1Pod) -> dict[str, Any]:
    """Pod template of a Ray node. Its preStop hook lets the training publish a checkpoint together with the others."""
    template = pod_template(pod, CONTAINER, _ENVIRONMENT)
    container = template["spec"]["containers"][0]
    for given_by_operator in ("command", "args"):
        del container[given_by_operator]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["python", "-m", _MODULE, "stop"]}}}
    return template


def _submitter(pod: k8s.V1Pod) -> dict[str, Any]:
    template = copy.deepcopy(pod_template(pod, CONTAINER, _ENVIRONMENT))
    container = template["spec"]["containers"][0]
    for given_by_operator in ("command", "args", "envFrom"):
        container.pop(given_by_operator, None)
    container["resources"] = _SUBMITTER_RESOURCES
    template["spec"]["terminationGracePeriodSeconds"] = 5
    return template
