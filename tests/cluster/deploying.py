"""An Airsmith of its own on the cluster that KUBECONFIG names: a namespace, a store's folder, a Hub, Airflow's home."""

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
STORE_AS_PODS_SEE_IT = os.environ.get("AIRSMITH_TEST_POD_S3_ENDPOINT", "http://minio.storage:9000")


@dataclass(frozen=True)
class Cluster:
    """What the tests know of the cluster.

    :param namespace: theirs alone, with the `restricted` Pod Security Standard enforced.
    :param host_address: an address of this machine that pods reach.
    """

    namespace: str
    host_address: str
    core: kubernetes.client.CoreV1Api

    def pods(self, prefix: str = "") -> list[kubernetes.client.V1Pod]:
        """The namespace's pods named so. A test counts its own: those of the one before may still be ending."""
        pods = self.core.list_namespaced_pod(self.namespace).items
        return [pod for pod in pods if pod.metadata.name.startswith(prefix)]


@dataclass(frozen=True)
class Deployment:
    """One Airsmith: its folder, Airflow's home and its settings."""

    folder: Path
    store: Store
    environment: dict[str, str]
    logs: dict[int, Path] = field(default_factory=dict)

    def write_recipe(self, name: str, recipe: object) -> str:
        """Add a recipe.

        :returns: the id of its DAG.
        """
        (self.folder / "dags" / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        (self.folder / "dags" / "finetune.py").touch()  # a file that has changed is parsed at once
        return f"finetune_{name.replace('-', '_')}"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `airflow …`; what it says goes to a file."""
        log = self.folder / f"{uuid.uuid4()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "airflow"), *arguments],
                cwd=self.folder, env={**self.environment, **environment}, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.logs[process.pid] = log
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has said so far."""
        return self.logs[process.pid].read_text()

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a good end.

        :returns: what the process said.
        """
        assert process.wait() == 0, self.log_of(process)
        return self.log_of(process)

    def runs(self) -> list[Run]:
        """The runs in the store, oldest first."""
        specs = [info for info in self.store.list("runs") if info.path.endswith("/spec.json")]
        return [Run(self.store, info.path.rsplit("/", 1)[0]) for info in sorted(specs, key=lambda info: info.modified)]


def stop_endpoint(store: Store, name: str) -> None:
    """Take an endpoint's servers away: they have a core each, which the next test's trainings need."""
    stop(store, name, kubernetes.client.ApiClient())


@contextmanager
def own_namespace() -> Iterator[Cluster]:
    """A namespace with the `restricted` Pod Security Standard, the store's Secret and Airflow's account."""
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
def deployed(cluster: Cluster, folder: Path, images: Path) -> Iterator[Deployment]:
    """An Airsmith whose pods run in the namespace; its Hub has the demo's model and dataset.

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
        deployment = Deployment(folder, Store.open(store), _environment(folder, kubeconfig))
        deployment.finish(deployment.start("db", "migrate"))
        try:
            yield deployment
        finally:
            for info in deployment.store.list(""):
                deployment.store.delete(info.path)


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
            # One thread a process: the nodes share this machine's cores, and threads that wait for others only spin.
            "environment": {
                "AWS_ENDPOINT_URL": STORE_AS_PODS_SEE_IT,
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
        "AIRSMITH_SETTINGS": str(folder / "airsmith.yaml"),
    }
