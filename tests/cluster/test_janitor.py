"""Pods that nobody waits for are gone after a round of the janitor, and no others; so are uploads that nobody ends."""

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
from conftest import BUCKET, REPOSITORY, Cluster, Deployment
from test_failures import recipe
from test_many_nodes import is_installed
from test_one_pod_alive import end_of, is_training, pods_of, start_run, wait_for

from airsmith.airflow.task_owner import this_airflow
from airsmith.artifacts.uploads import open_uploads
from airsmith.cluster.jobs import ENGINES
from airsmith.cluster.jobs.client import Jobs
from airsmith.cluster.labels import TaskOwner, pod_labels
from airsmith.cluster.security import container_security, pod_security
from airsmith.janitor import inventory, pods
from airsmith.janitor.endpoints import tidy_endpoints
from airsmith.janitor.pods import YOUNGEST
from airsmith.janitor.tidy import tidy_store
from airsmith.registry import Deployment as ServerOfEndpoint
from airsmith.registry import swap_endpoint
from airsmith.settings import JanitorSettings
from tests.cluster.standalone import Airflow, standalone


@pytest.fixture(scope="module")
def janitor(deployment: Deployment) -> Iterator[Deployment]:
    """The deployment with the janitor's DAG, which other tests' Airflow has no use for."""
    file = deployment.folder / "dags" / "janitor.py"
    file.write_text((REPOSITORY / "dags" / "janitor.py").read_text())
    yield deployment
    file.unlink()


@pytest.fixture(scope="module")
def airflow(janitor: Deployment) -> Iterator[Airflow]:
    with standalone(janitor, AIRSMITH_JANITOR__EVERY_MINUTES="1000") as airflow:
        yield airflow


def pod_of(owner: TaskOwner, deployment: Deployment, cluster: Cluster) -> str:
    """Start a pod that only sleeps, marked as a task's."""
    pod = sleeper_of(owner, deployment, cluster)
    cluster.core.create_namespaced_pod(cluster.namespace, pod)
    return str(pod.metadata.name)


def sleeper_of(owner: TaskOwner, deployment: Deployment, cluster: Cluster) -> kubernetes.client.V1Pod:
    settings = yaml.safe_load((deployment.folder / "airsmith.yaml").read_text())
    image = settings["kubernetes"]["images"]["cpu"]["reference"]
    name = f"sleeper-{uuid.uuid4().hex[:8]}"
    sleeper = kubernetes.client.V1Container(
        name="base", image=image, command=["sleep", "600"], security_context=container_security()
    )
    labels, annotations = pod_labels(stage=owner.task_id), owner.annotations()
    return kubernetes.client.V1Pod(
        metadata=kubernetes.client.V1ObjectMeta(
            name=name, namespace=cluster.namespace, labels=labels, annotations=annotations
        ),
        spec=kubernetes.client.V1PodSpec(
            containers=[sleeper],
            security_context=pod_security(),
            automount_service_account_token=False,
            termination_grace_period_seconds=0,
            restart_policy="Never",
        ),
    )


def names(cluster: Cluster) -> set[str]:
    return {pod.metadata.name for pod in cluster.pods() if pod.metadata.deletion_timestamp is None}


def wait_until_judged(cluster: Cluster, name: str) -> None:
    """A pod must have lived for a while before anybody takes it for an orphan."""
    created = cluster.core.read_namespaced_pod(name, cluster.namespace).metadata.creation_timestamp
    wait_for(lambda: datetime.now(timezone.utc) > created + YOUNGEST + timedelta(seconds=2))


def test_pods_of_runs_that_airflow_does_not_have_go_and_all_others_stay(janitor: Deployment, cluster: Cluster) -> None:
    dag_id = janitor.write_recipe("patient", recipe(60))
    here = this_airflow()
    orphan = pod_of(TaskOwner(here, dag_id, "deleted", "train"), janitor, cluster)
    waited_for = pod_of(TaskOwner(here, dag_id, "waiting", "train"), janitor, cluster)
    foreign = pod_of(TaskOwner("https://airflow.example.com", dag_id, "deleted", "train"), janitor, cluster)
    janitor.finish(janitor.start("dags", "reserialize"))
    janitor.finish(janitor.start("dags", "trigger", dag_id, "--run-id", "waiting"))
    wait_until_judged(cluster, foreign)
    young = pod_of(TaskOwner(here, dag_id, "deleted", "train"), janitor, cluster)
    log = janitor.finish(janitor.start("dags", "test", "janitor"))
    assert f"{orphan}: run deleted of {dag_id} was deleted in Airflow" in log
    left = names(cluster)
    assert orphan not in left
    assert {waited_for, foreign, young} <= left
    assert re.search(r"Half-published folders: (none|would remove)", log)
    for name in (waited_for, foreign, young):
        cluster.core.delete_namespaced_pod(name, cluster.namespace)
    janitor.finish(janitor.start("dags", "delete", dag_id, "--yes"))


def test_an_upload_that_nobody_completes_is_aborted(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}), region_name="us-east-1")
    path = "artifacts/model/abandoned/attempt=1/weights"
    key = f"{deployment.store.uri.removeprefix(f's3://{BUCKET}/')}/{path}"
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    real = inventory.store_time
    monkeypatch.setattr(inventory, "store_time", lambda store: real(store) + timedelta(hours=25))
    sections = tidy_store(deployment.store, JanitorSettings(), lambda runs, now: (), told=("uploads",))
    (removed,) = next(section.removed for section in sections if section.kind == "uploads")
    assert (removed.name, removed.size_bytes) == (path, 1000)
    assert not list(open_uploads(deployment.store).list())


def test_a_server_that_no_endpoint_records_is_deleted_and_the_recorded_one_stays(
    deployment: Deployment, cluster: Cluster
) -> None:
    client = kubernetes.config.new_client_from_config(str(deployment.folder / "airflow.kubeconfig"))
    swap_endpoint(deployment.store, "tidied", served("recorded", cluster))
    for name, store in (("recorded", deployment.store.uri), ("stray", deployment.store.uri), ("foreign", "s3://x/y")):
        kubernetes.client.AppsV1Api().create_namespaced_deployment(cluster.namespace, resting_server(name, store))

    def tidied(**grace: float) -> list[str]:
        found = tidy_endpoints(deployment.store, cluster.namespace, timedelta(**grace), ("endpoints",), client)
        return [server.name for server in found.removed]

    assert tidied(hours=1) == []
    assert tidied(seconds=-5) == ["stray"]
    listed = kubernetes.client.AppsV1Api().list_namespaced_deployment(cluster.namespace).items
    assert {found.metadata.name for found in listed} >= {"recorded", "foreign"}
    assert "stray" not in {found.metadata.name for found in listed}
    deployment.store.delete("endpoints/tidied.json")
    for name in ("recorded", "foreign"):
        kubernetes.client.AppsV1Api().delete_namespaced_deployment(name, cluster.namespace)


def served(server: str, cluster: Cluster) -> ServerOfEndpoint:
    known = {"engine": "vllm", "address": "http://x", "model_name": "tidied", "model_uri": "artifacts/model/m"}
    return ServerOfEndpoint(**known, deployment=server, namespace=cluster.namespace)


def resting_server(name: str, store: str) -> dict[str, Any]:
    """A Deployment of the endpoint `tidied` without a pod."""
    labels = pod_labels(endpoint="tidied", deployment=name)
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
def test_a_job_goes_as_a_whole_and_the_pods_of_one_that_is_waited_for_stay(
    deployment: Deployment, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    if not is_installed(ENGINES[job].RESOURCE):
        pytest.skip(f"the cluster has no {job}")
    client = kubernetes.config.new_client_from_config(str(deployment.folder / "airflow.kubeconfig"))
    jobs = Jobs(client, ENGINES[job], cluster.namespace)
    made = {}
    for run_id in ("deleted", "waiting"):
        sleeper = sleeper_of(TaskOwner("here", "many", run_id, "train"), deployment, cluster)
        made[run_id] = sleeper.metadata.name
        assert jobs.create("train", made[run_id], sleeper, nodes=2) is not None
    wait_for(lambda: all(len(cluster.pods(name)) == 2 for name in made.values()))
    monkeypatch.setattr(pods, "YOUNGEST", timedelta(seconds=-60))

    def removed() -> list[tuple[str, str]]:
        states = {"waiting": {"train": "running"}}
        section = pods.tidy_pods(cluster.namespace, "here", lambda dag_id, run_ids: states, client)
        return [(garbage.name, garbage.reason) for garbage in section.removed]

    orphan = (made["deleted"], "run deleted of many was deleted in Airflow")
    assert removed() == [orphan]
    wait_for(lambda: jobs.read(made["deleted"]) is None and not cluster.pods(made["deleted"]))
    assert removed() == ([orphan] if ENGINES[job].COMPANION else [])
    assert removed() == []
    assert jobs.read(made["waiting"]) is not None
    assert len(cluster.pods(made["waiting"])) == 2
    jobs.remove(made["waiting"], longest_seconds=60)


@pytest.mark.long
def test_the_training_of_a_run_that_is_deleted_in_airflow_ends(airflow: Airflow, cluster: Cluster) -> None:
    endless = {"max_steps": 100_000, "save_steps": 50}
    deleted, deleted_run = start_run(airflow, "deleted-run", recipe(61, training=endless))
    going, going_run = start_run(airflow, "going-on", recipe(62, training=endless))
    for dag_id in (deleted, going):
        wait_for(lambda dag_id=dag_id: is_training(airflow, dag_id))  # type: ignore[misc]
    (pod,) = pods_of(cluster, "deleted-run", "train")
    (other,) = pods_of(cluster, "going-on", "train")
    for triggerer in airflow.processes("airflow", "triggerer"):  # Else it may be told in time, and end the pod itself.
        triggerer.kill()
    airflow.api.request("PATCH", f"dags/{deleted}/dagRuns/{deleted_run}", json={"state": "failed"})
    airflow.api.request("DELETE", f"dags/{deleted}/dagRuns/{deleted_run}")
    wait_until_judged(cluster, pod.metadata.name)
    assert pods_of(cluster, "deleted-run", "train")
    assert end_of(airflow, "janitor", airflow.api.trigger("janitor")) == "success"
    wait_for(lambda: not pods_of(cluster, "deleted-run", "train"))
    assert [left.metadata.uid for left in pods_of(cluster, "going-on", "train")] == [other.metadata.uid]
    airflow.api.request("PATCH", f"dags/{going}/dagRuns/{going_run}/taskInstances/train", json={"new_state": "failed"})
    assert end_of(airflow, "janitor", airflow.api.trigger("janitor")) == "success"
    wait_for(lambda: not pods_of(cluster, "going-on", "train"))
