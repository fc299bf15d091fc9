"""The manifests of each job kind, and the state read from a job.

AIRSMITH_TEST_GOLDEN=write updates the golden files after an intended change.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from airsmith.cluster.jobs import JOB_KINDS, JobPhase, JobState
from airsmith.cluster.jobs.client import job_name
from airsmith.cluster.jobs.job_kind import MAX_JOB_NAME_LENGTH
from airsmith.cluster.stage_pod import stage_pod
from airsmith.recipe.operation import JobKindName
from airsmith.settings import Image, Settings
from tests.support.pods import DIGEST, RUN, SETTINGS, cluster_spec

GOLDEN = Path(__file__).parent / "golden"
NODES = 3

each_kind = pytest.mark.parametrize("job", sorted(JOB_KINDS))


def with_ray_image(settings: Settings, environment: dict[str, str]) -> Settings:
    known = settings.kubernetes
    images = {**known.images, "train-cpu-ray": Image(reference="registry.example/ray@sha256:00")}
    changed = {"images": images, "environment": {**known.environment, **environment}}
    return settings.model_copy(update={"kubernetes": known.model_copy(update=changed)})


def manifests_of(job: str, **environment: str) -> list[dict[str, Any]]:
    """The manifests of a training on three nodes.

    :param environment: variables that the settings add to every pod.
    """
    backend = {"nodes": NODES, "devices": 2, "job": job, "queue": "trainings", "priority": "high"}
    spec = cluster_spec(backend=backend, training={"total_train_batch_size": 12})
    pod = stage_pod("train", RUN, spec, DIGEST, with_ray_image(SETTINGS, environment))
    name = job_name("train", RUN, spec)
    kind = JOB_KINDS[job]
    rendered = [kind.render_companion(name, pod, NODES), kind.render(name, pod, NODES)]
    return [dict(each) for each in rendered if each is not None]


def pod_templates(node: Any) -> list[dict[str, Any]]:
    """All pod templates in a manifest."""
    if isinstance(node, list):
        return [found for each in node for found in pod_templates(each)]
    if not isinstance(node, dict):
        return []
    here = [node] if "containers" in node.get("spec", {}) else []
    return here + [found for value in node.values() for found in pod_templates(value)]


@each_kind
def test_the_manifests_match_the_golden_file(job: str) -> None:
    made = yaml.safe_dump_all(manifests_of(job), sort_keys=False)
    golden = GOLDEN / f"{job}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(made, encoding="utf-8")
    assert made == golden.read_text(encoding="utf-8")


@each_kind
def test_the_queue_label_is_on_the_job_and_not_on_its_pods(job: str) -> None:
    *_, manifest = manifests_of(job)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainings"
    templates = [template for each in manifests_of(job) for template in pod_templates(each)]
    assert templates
    for template in templates:
        assert not [name for name in template["metadata"]["labels"] if name.startswith("kueue")]


@each_kind
def test_pods_of_a_job_are_restricted_and_have_no_token(job: str) -> None:
    for template in [template for each in manifests_of(job) for template in pod_templates(each)]:
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert not template["spec"]["automountServiceAccountToken"]
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_a_rayjob_passes_omp_num_threads_to_the_launcher() -> None:
    (job,) = manifests_of("rayjob", OMP_NUM_THREADS="3")
    assert " --nodes 3 --threads 3 train --run " in job["spec"]["entrypoint"]
    (job,) = manifests_of("rayjob")
    assert " --nodes 3 train --run " in job["spec"]["entrypoint"]


def test_every_job_kind_of_the_recipe_is_implemented() -> None:
    assert set(JOB_KINDS) == set(JobKindName.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a", "x" * 60, "a-" * 15 + "b"])
def test_a_job_name_leaves_room_for_suffixes(name: str) -> None:
    assert len(job_name("train", RUN, cluster_spec(name=name))) <= MAX_JOB_NAME_LENGTH


@each_kind
def test_a_new_job_is_running_and_a_suspended_one_is_queued(job: str) -> None:
    state_of = JOB_KINDS[job].state_of
    assert state_of({"spec": {}}) == JobState(JobPhase.RUNNING)
    assert state_of({"spec": {"suspend": True}, "status": {}}) == JobState(JobPhase.QUEUED)


@pytest.mark.parametrize(
    ("job", "status", "state"),
    [
        ("jobset", {"conditions": [{"type": "Completed", "status": "True"}]}, JobState(JobPhase.SUCCEEDED)),
        ("jobset", {"conditions": [{"type": "Completed", "status": "False"}]}, JobState(JobPhase.RUNNING)),
        (
            "jobset",
            {"conditions": [{"type": "Failed", "status": "True", "message": "lost"}]},
            JobState(JobPhase.FAILED, "lost"),
        ),
        ("trainjob", {"conditions": [{"type": "Complete", "status": "True"}]}, JobState(JobPhase.SUCCEEDED)),
        (
            "trainjob",
            {"conditions": [{"type": "Failed", "status": "True", "reason": "JobsFailed"}]},
            JobState(JobPhase.FAILED, "JobsFailed"),
        ),
        ("rayjob", {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}, JobState(JobPhase.RUNNING)),
        ("rayjob", {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Running"}, JobState(JobPhase.RUNNING)),
        ("rayjob", {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, JobState(JobPhase.SUCCEEDED)),
        (
            "rayjob",
            {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "exit code 1"},
            JobState(JobPhase.FAILED, "exit code 1"),
        ),
        ("rayjob", {"jobDeploymentStatus": "Failed", "reason": "none"}, JobState(JobPhase.FAILED, "none")),
    ],
)  # fmt: skip
def test_the_phase_of_a_job_is_read_from_its_status(job: str, status: dict[str, Any], state: JobState) -> None:
    assert JOB_KINDS[job].state_of({"spec": {}, "status": status}) == state
