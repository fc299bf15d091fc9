"""An Airsmith installation on the cluster that KUBECONFIG names: namespace, store prefix, Hub, Airflow home."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes
import yaml

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.serving.cluster.endpoint import stop
from demo.hub.server import serve
from tests.cluster import airflow_identity

REPOSITORY = Path(__file__).parents[2]
STAGES_PYTHON = REPOSITORY / ".venvs" / "stages" / "bin" / "python"
BUCKET = os.environ.get("AIRSMITH_TEST_BUCKET", "airsmith")
STORE_ENDPOINT_IN_PODS = os.environ.get("AIRSMITH_TEST_POD_S3_ENDPOINT", "http://minio.storage:9000")


@dataclass(frozen=True)
class Cluster:
    """The cluster under test.

    :param namespace: reserved for these tests; enforces the `restricted` Pod Security Standard.
    :param host_address: address of this machine that pods can reach.
    """

    namespace: str
    host_address: str
    core: kubernetes.client.CoreV1Api

    def pods(self, prefix: str = "") -> list[kubernetes.client.V1Pod]:
        """The namespace's pods whose names start with a prefix. Pods of an earlier test may still be terminating."""
        pods = self.core.list_namespaced_pod(self.namespace).items
        return [pod for pod in pods if pod.metadata.name.startswith(prefix)]


@dataclass(frozen=True)
class Installation:
    """One Airsmith: folder, store and the environment of its commands."""

    folder: Path
    store: Store
    environment: dict[str, str]
    logs: dict[int, Path] = field(default_factory=dict)

    def write_recipe(self, name: str, recipe: object) -> str:
        """Add a recipe and return its DAG id."""
        (self.folder / "dags" / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        (self.folder / "dags" / "finetune.py").touch()  # Airflow parses a changed file at once
        return f"finetune_{name.replace('-', '_')}"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `airflow …` with its output in a log file."""
        log = self.folder / f"{uuid.uuid4()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "airflow"), *arguments],
                cwd=self.folder, env={**self.environment, **environment}, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.logs[process.pid] = log
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """A process's output so far."""
        return self.logs[process.pid].read_text()

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a process to exit with status 0 and return its output."""
        assert process.wait() == 0, self.log_of(process)
        return self.log_of(process)

    def runs(self) -> list[Run]:
        """The store's runs, oldest first."""
        specs = [info for info in self.store.list("runs") if info.path.endswith("/spec.json")]
        return [Run(self.store, info.path.rsplit("/", 1)[0]) for info in sorted(specs, key=lambda info: info.modified)]


def is_served(group: str, version: str, plural: str) -> bool:
    """Whether the API server serves a custom resource."""
    try:
        kubernetes.client.CustomObjectsApi().list_cluster_custom_object(group, version, plural)
    except kubernetes.client.ApiException as error:
        if error.status == 404:
            return False
        raise
    return True


def stop_endpoint(store: Store, name: str) -> None:
    """Delete an endpoint's servers. Each holds a core that the next test's training needs."""
    stop(store, name, kubernetes.client.ApiClient())


@contextmanager
def new_namespace() -> Iterator[Cluster]:
    """A namespace with the `restricted` Pod Security Standard, the store's Secret and Airflow's service account."""
    kubernetes.config.load_kube_config()
    core = kubernetes.client.CoreV1Api()
    server = urlsplit(kubernetes.client.Configuration.get_default_copy().host).hostname or ""
    namespace = f"airsmith-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": namespace, "labels": labels}})
    try:
        credentials = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        core.create_namespaced_secret(namespace, {"metadata": {"name": "store"}, "stringData": credentials})
        airflow_identity.grant(namespace)
        yield Cluster(namespace, os.environ.get("AIRSMITH_TEST_HOST_ADDRESS", server), core)
    finally:
        airflow_identity.withdraw(namespace)
        core.delete_namespace(namespace)


@contextmanager
def install_airsmith(cluster: Cluster, folder: Path, images: Path) -> Iterator[Installation]:
    """An Airsmith whose pods run in the namespace. Its Hub holds the demo's model and dataset.

    :param images: settings file that `make images SETTINGS=…` wrote.
    """
    (folder / "dags" / "recipes").mkdir(parents=True)
    (folder / "dags" / "finetune.py").write_text((REPOSITORY / "dags" / "finetune.py").read_text())
    store = f"s3://{BUCKET}/test-{uuid.uuid4().hex[:8]}"
    with serve(folder / "hub", host=cluster.host_address) as hub:
        settings = _settings(cluster, store, hub.url, yaml.safe_load(images.read_text())["kubernetes"]["images"])
        (folder / "airsmith.yaml").write_text(yaml.safe_dump(settings))
        publish = [str(STAGES_PYTHON), "-m", "demo.publish", "--root", str(folder / "hub")]
        subprocess.run(publish, cwd=REPOSITORY, check=True)
        kubeconfig = airflow_identity.kubeconfig(cluster.namespace, folder)
        installation = Installation(folder, Store.open(store), _environment(folder, kubeconfig))
        installation.finish(installation.start("db", "migrate"))
        try:
            yield installation
        finally:
            for info in installation.store.list(""):
                installation.store.delete(info.path)


def _settings(cluster: Cluster, store: str, hub_endpoint: str, images: dict[str, Any]) -> dict[str, Any]:
    return {
        "runtime": "kubernetes",
        "store": store,
        "hub_endpoint": hub_endpoint,
        "team": "tests",
        "kubernetes": {
            "namespace": cluster.namespace,
            "images": images,
            "store_secret": "store",
            "scratch_size": "1Gi",
            # One thread per process: the nodes share this machine's cores, and idle OpenMP threads spin.
            "environment": {
                "AWS_ENDPOINT_URL": STORE_ENDPOINT_IN_PODS,
                "AWS_REGION": "us-east-1",
                "OMP_NUM_THREADS": "1",
            },
        },
        "backends": {name: {"retry_delay_seconds": 1} for name in ("cpu", "neuron_xla")},
    }


def _environment(folder: Path, kubeconfig: Path) -> dict[str, str]:
    foreign = ("AIRFLOW", "AIRSMITH", "HF_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        "KUBECONFIG": str(kubeconfig),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Pods of other tests can use all cores while Airflow parses a file.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "180",
        "AIRSMITH_SETTINGS": str(folder / "airsmith.yaml"),
    }
