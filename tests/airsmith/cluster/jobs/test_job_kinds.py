"""What each engine's module makes of a stage's pod, and what it reads from a job. After a wanted change of the golden
jobs: AIRSMITH_TEST_GOLDEN=write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_pods import DIGEST, SETTINGS, make_spec

from airsmith.artifacts.store import Store
from airsmith.cluster.jobs import JOB_KINDS, JobPhase, JobState
from airsmith.cluster.jobs.client import job_name
from airsmith.cluster.jobs.job_kind import MAX_JOB_NAME_LENGTH
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.run import Run
from airsmith.recipe.operation import JobName
from airsmith.settings import Image, Settings

GOLDEN = Path(__file__).parent / "golden"
NODES = 3
RUN = Run(Store.open("s3://bucket/prefix"), "runs/dag/run-0badcafe")

each = pytest.mark.parametrize("job", sorted(JOB_KINDS))


def with_ray(settings: Settings, environment: dict[str, str]) -> Settings:
    known = settings.kubernetes
    images = {**known.images, "train-cpu-ray": Image(reference="registry.example/ray@sha256:00")}
    changed = {"images": images, "environment": {**known.environment, **environment}}
    return settings.model_copy(update={"kubernetes": known.model_copy(update=changed)})


def objects(job: str, **environment: str) -> list[dict[str, Any]]:
    """What the API server would get for a training on three nodes.

    :param environment: what the deployment gives its pods beside the settings'.
    """
    backend = {"nodes": NODES, "devices": 2, "job": job, "queue": "trainings", "priority": "high"}
    spec = make_spec(backend=backend, training={"total_train_batch_size": 12})
    pod = stage_pod("train", RUN, spec, DIGEST, with_ray(SETTINGS, environment))
    name = job_name("train", RUN, spec)
    engine = JOB_KINDS[job]
    rendered = [engine.render_companion(name, pod, NODES), engine.render(name, pod, NODES)]
    return [dict(each) for each in rendered if each is not None]


def pods_within(node: Any) -> list[dict[str, Any]]:
    """All pod templates of an object."""
    if isinstance(node, list):
        return [found for each in node for found in pods_within(each)]
    if not isinstance(node, dict):
        return []
    here = [node] if "containers" in node.get("spec", {}) else []
    return here + [found for value in node.values() for found in pods_within(value)]


@each
def test_the_job_is_the_golden_one(job: str) -> None:
    made = yaml.safe_dump_all(objects(job), sort_keys=False)
    golden = GOLDEN / f"{job}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(made, encoding="utf-8")
    assert made == golden.read_text(encoding="utf-8")


@each
def test_a_queue_admits_the_job_and_not_its_pods(job: str) -> None:
    *_, whole = objects(job)
    assert whole["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainings"
    templates = [template for each in objects(job) for template in pods_within(each)]
    assert templates
    for template in templates:
        assert not [name for name in template["metadata"]["labels"] if name.startswith("kueue")]


@each
def test_its_pods_are_restricted_and_their_secrets_are_references(job: str) -> None:
    for template in [template for each in objects(job) for template in pods_within(each)]:
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert not template["spec"]["automountServiceAccountToken"]
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_ray_which_sets_threads_itself_is_told_those_of_the_deployment() -> None:
    (job,) = objects("rayjob", OMP_NUM_THREADS="3")
    assert " --nodes 3 --threads 3 train --run " in job["spec"]["entrypoint"]
    (job,) = objects("rayjob")
    assert " --nodes 3 train --run " in job["spec"]["entrypoint"]


def test_every_engine_of_the_recipe_is_there_and_no_other() -> None:
    assert set(JOB_KINDS) == set(JobName.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a", "x" * 60, "a-" * 15 + "b"])
def test_a_job_s_name_leaves_room_for_what_engines_add(name: str) -> None:
    assert len(job_name("train", RUN, make_spec(name=name))) <= MAX_JOB_NAME_LENGTH


@each
def test_a_new_job_is_at_work_and_a_suspended_one_is_queued(job: str) -> None:
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
def test_how_far_a_job_is_is_read_from_its_status(job: str, status: dict[str, Any], state: JobState) -> None:
    assert JOB_KINDS[job].state_of({"spec": {}, "status": status}) == state
