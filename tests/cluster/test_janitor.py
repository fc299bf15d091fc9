"""A janitor round removes orphaned pods, jobs, servers and uploads, and nothing else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import kubernetes
import pytest
import yaml
from botocore.config import Config

from airsmith.airflow.task_owner import this_airflow
from airsmith.artifacts.uploads import open_uploads
from airsmith.cluster.jobs import JOB_KINDS
from airsmith.cluster.jobs.client import JobClient
from airsmith.cluster.labels import TaskOwner, pod_labels
from airsmith.cluster.security import container_security, pod_security
from airsmith.janitor import inventory, pods
from airsmith.janitor.endpoints import tidy_endpoints
from airsmith.janitor.pods import MIN_AGE
from airsmith.janitor.tidy import tidy_store
from airsmith.registry import Revision, record_current
from airsmith.settings import JanitorSettings
from tests.cluster.airflow_server import AirflowServer, airflow_server
from tests.cluster.dag_runs import (
    active_pods,
    final_state,
    has_trained,
    mark_task_failed,
    small_recipe,
    start_run,
    wait_for,
)
from tests.cluster.installation import BUCKET, REPOSITORY, Cluster, Installation, is_served

pytestmark = pytest.mark.images("cpu")


@pytest.fixture(scope="module")
def janitor(installation: Installation) -> Iterator[Installation]:
    """The installation with the janitor's DAG, which no other test needs."""
    file = installation.folder / "dags" / "janitor.py"
    file.write_text((REPOSITORY / "dags" / "janitor.py").read_text())
    yield installation
    file.unlink()


@pytest.fixture(scope="module")
def airflow(janitor: Installation) -> Iterator[AirflowServer]:
    with airflow_server(janitor, AIRSMITH_JANITOR__EVERY_MINUTES="1000") as airflow:
        yield airflow


def start_sleeper(owner: TaskOwner, installation: Installation, cluster: Cluster) -> str:
    """Start a sleeping pod with a task's labels."""
    pod = sleeper(owner, installation, cluster)
    cluster.core.create_namespaced_pod(cluster.namespace, pod)
    return str(pod.metadata.name)


def sleeper(owner: TaskOwner, installation: Installation, cluster: Cluster) -> kubernetes.client.V1Pod:
    settings = yaml.safe_load((installation.folder / "airsmith.yaml").read_text())
    image = settings["kubernetes"]["images"]["cpu"]["reference"]
    name = f"sleeper-{uuid.uuid4().hex[:8]}"
    container = kubernetes.client.V1Container(
        name="base", image=image, command=["sleep", "600"], security_context=container_security()
    )
    labels, annotations = pod_labels(stage=owner.task_id), owner.annotations()
    return kubernetes.client.V1Pod(
        metadata=kubernetes.client.V1ObjectMeta(
            name=name, namespace=cluster.namespace, labels=labels, annotations=annotations
        ),
        spec=kubernetes.client.V1PodSpec(
            containers=[container],
            security_context=pod_security(),
            automount_service_account_token=False,
            termination_grace_period_seconds=0,
            restart_policy="Never",
        ),
    )


def names(cluster: Cluster) -> set[str]:
    return {pod.metadata.name for pod in cluster.pods() if pod.metadata.deletion_timestamp is None}


def wait_until_old_enough(cluster: Cluster, name: str) -> None:
    """Wait until the janitor considers a pod: it ignores younger ones."""
    created = cluster.core.read_namespaced_pod(name, cluster.namespace).metadata.creation_timestamp
    wait_for(lambda: datetime.now(timezone.utc) > created + MIN_AGE + timedelta(seconds=2))


def test_pods_of_runs_that_airflow_deleted_are_removed_and_no_others(janitor: Installation, cluster: Cluster) -> None:
    dag_id = janitor.write_recipe("patient", small_recipe(60))
    here = this_airflow()
    orphan = start_sleeper(TaskOwner(here, dag_id, "deleted", "train"), janitor, cluster)
    active = start_sleeper(TaskOwner(here, dag_id, "waiting", "train"), janitor, cluster)
    foreign = start_sleeper(TaskOwner("https://airflow.example.com", dag_id, "deleted", "train"), janitor, cluster)
    janitor.finish(janitor.start("dags", "reserialize"))
    janitor.finish(janitor.start("dags", "trigger", dag_id, "--run-id", "waiting"))
    wait_until_old_enough(cluster, foreign)
    young = start_sleeper(TaskOwner(here, dag_id, "deleted", "train"), janitor, cluster)
    log = janitor.finish(janitor.start("dags", "test", "janitor"))
    assert f"{orphan}: run deleted of {dag_id} was deleted in Airflow" in log
    left = names(cluster)
    assert orphan not in left
    assert {active, foreign, young} <= left
    assert re.search(r"Half-published folders: (none|would delete)", log)
    for name in (active, foreign, young):
        cluster.core.delete_namespaced_pod(name, cluster.namespace)
    janitor.finish(janitor.start("dags", "delete", dag_id, "--yes"))


def test_an_abandoned_upload_is_aborted(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}), region_name="us-east-1")
    path = "artifacts/model/abandoned/attempt=1/weights"
    key = f"{installation.store.uri.removeprefix(f's3://{BUCKET}/')}/{path}"
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    real = inventory.store_time
    monkeypatch.setattr(inventory, "store_time", lambda store: real(store) + timedelta(hours=25))
    sections = tidy_store(installation.store, JanitorSettings(), lambda runs, now: (), kinds_to_delete=("uploads",))
    (removed,) = next(section.deleted for section in sections if section.kind == "uploads")
    assert (removed.name, removed.size_bytes) == (path, 1000)
    assert not list(open_uploads(installation.store).list())


def test_a_server_that_no_endpoint_records_is_deleted(installation: Installation, cluster: Cluster) -> None:
    client = kubernetes.config.new_client_from_config(str(installation.folder / "airflow.kubeconfig"))
    record_current(installation.store, "tidied", record_of("recorded", cluster))
    for name, store in (
        ("recorded", installation.store.uri),
        ("stray", installation.store.uri),
        ("foreign", "s3://x/y"),
    ):
        kubernetes.client.AppsV1Api().create_namespaced_deployment(cluster.namespace, stopped_server(name, store))

    def tidied(**grace: float) -> list[str]:
        found = tidy_endpoints(installation.store, cluster.namespace, timedelta(**grace), ("endpoints",), client)
        return [server.name for server in found.deleted]

    assert tidied(hours=1) == []
    assert tidied(seconds=-5) == ["stray"]
    listed = kubernetes.client.AppsV1Api().list_namespaced_deployment(cluster.namespace).items
    assert {found.metadata.name for found in listed} >= {"recorded", "foreign"}
    assert "stray" not in {found.metadata.name for found in listed}
    installation.store.delete("endpoints/tidied.json")
    for name in ("recorded", "foreign"):
        kubernetes.client.AppsV1Api().delete_namespaced_deployment(name, cluster.namespace)


def record_of(server: str, cluster: Cluster) -> Revision:
    known = {"engine": "vllm", "address": "http://x", "model_name": "tidied", "model_uri": "artifacts/model/m"}
    return Revision(**known, id=server, namespace=cluster.namespace)


def stopped_server(name: str, store: str) -> dict[str, Any]:
    """A Deployment of the endpoint `tidied` with zero replicas."""
    labels = pod_labels(endpoint="tidied", revision=name)
    container = {"name": "vllm", "image": "none", "command": ["serve", "--model", f"{store}/artifacts/model/m"]}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


@pytest.mark.parametrize("job", ["jobset", "trainjob"])
def test_an_orphaned_job_is_removed_with_its_pods_and_others_stay(
    installation: Installation, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    resource = JOB_KINDS[job].RESOURCE
    if not is_served(resource.group, resource.version, resource.plural):
        pytest.skip(f"the cluster has no {job}")
    client = kubernetes.config.new_client_from_config(str(installation.folder / "airflow.kubeconfig"))
    jobs = JobClient(client, JOB_KINDS[job], cluster.namespace)
    made = {}
    for run_id in ("deleted", "waiting"):
        pod = sleeper(TaskOwner("here", "many", run_id, "train"), installation, cluster)
        made[run_id] = pod.metadata.name
        assert jobs.create("train", made[run_id], pod, nodes=2) is not None
    wait_for(lambda: all(len(cluster.pods(name)) == 2 for name in made.values()))
    monkeypatch.setattr(pods, "MIN_AGE", timedelta(seconds=-60))

    def removed() -> list[tuple[str, str]]:
        states = {"waiting": {"train": "running"}}
        section = pods.tidy_pods(cluster.namespace, "here", lambda dag_id, run_ids: states, client)
        return [(garbage.name, garbage.reason) for garbage in section.deleted]

    orphan = (made["deleted"], "run deleted of many was deleted in Airflow")
    assert removed() == [orphan]
    wait_for(lambda: jobs.read(made["deleted"]) is None and not cluster.pods(made["deleted"]))
    assert removed() == ([orphan] if JOB_KINDS[job].COMPANION else [])
    assert removed() == []
    assert jobs.read(made["waiting"]) is not None
    assert len(cluster.pods(made["waiting"])) == 2
    jobs.delete(made["waiting"], timeout_seconds=60)


@pytest.mark.long
@pytest.mark.images("train-cpu")
def test_deleting_a_run_in_airflow_stops_its_training(airflow: AirflowServer, cluster: Cluster) -> None:
    endless = {"max_steps": 100_000, "save_steps": 50}
    deleted, deleted_run = start_run(airflow, "deleted-run", small_recipe(61, training=endless))
    going, going_run = start_run(airflow, "going-on", small_recipe(62, training=endless))
    for dag_id in (deleted, going):
        wait_for(lambda dag_id=dag_id: has_trained(airflow.installation, dag_id))  # type: ignore[misc]
    (pod,) = active_pods(cluster, "deleted-run", "train")
    (other,) = active_pods(cluster, "going-on", "train")
    for triggerer in airflow.processes("airflow", "triggerer"):  # A live triggerer could stop the pod itself.
        triggerer.kill()
    airflow.api.request("PATCH", f"dags/{deleted}/dagRuns/{deleted_run}", json={"state": "failed"})
    airflow.api.request("DELETE", f"dags/{deleted}/dagRuns/{deleted_run}")
    wait_until_old_enough(cluster, pod.metadata.name)
    assert active_pods(cluster, "deleted-run", "train")
    assert final_state(airflow, "janitor", airflow.api.trigger("janitor")) == "success"
    wait_for(lambda: not active_pods(cluster, "deleted-run", "train"))
    assert [left.metadata.uid for left in active_pods(cluster, "going-on", "train")] == [other.metadata.uid]
    mark_task_failed(airflow, going, going_run, "train")
    assert final_state(airflow, "janitor", airflow.api.trigger("janitor")) == "success"
    wait_for(lambda: not active_pods(cluster, "going-on", "train"))
