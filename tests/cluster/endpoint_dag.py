"""Run the DAG `endpoint` and count which version answers requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

from airsmith.artifacts.store import Store
from airsmith.cluster.labels import PREFIX
from airsmith.pipeline.endpoint_change import EndpointChange
from airsmith.registry import Endpoint, read_endpoint
from airsmith.serving.cluster.manifests import PORT
from tests.cluster.installation import REPOSITORY, Cluster, Installation

REQUESTS = 200


@dataclass
class EndpointDag:
    """The DAG in a separate process, for one endpoint.

    :param name: of the endpoint.
    :param requests: trigger forms, written as JSON lines.
    :param results: task states by run, read as JSON lines.
    :param log_read: characters of the log that belong to earlier runs.
    """

    name: str
    store: Store
    cluster: Cluster
    requests: IO[str]
    results: IO[str]
    log_file: Path
    log_read: int = 0

    def trigger(self, action: str, **fields: Any) -> dict[str, str]:
        """Trigger a run, wait until it is finished and return the states of its tasks."""
        self.log_read = len(self.log_file.read_text())
        form = {**dict.fromkeys(EndpointChange.model_fields), "action": action, "endpoint": self.name, **fields}
        print(json.dumps(form), file=self.requests, flush=True)
        states = self.results.readline()
        assert states, self.log_file.read_text()
        return dict(json.loads(states))

    def log(self) -> str:
        """The log of the last run."""
        return self.log_file.read_text()[self.log_read :]

    def record(self) -> Endpoint:
        """The endpoint's record in the store."""
        endpoint = read_endpoint(self.store, self.name)
        assert endpoint is not None
        return endpoint

    def address(self) -> str:
        """The URL of its Service, reachable from this machine."""
        service = self.cluster.core.read_namespaced_service(self.name, self.cluster.namespace)
        return f"http://{service.spec.cluster_ip}:{PORT}"

    def answers(self, address: str | None = None, requests: int = REQUESTS) -> Counter[int]:
        """Number of answers by version. Each request uses a new connection."""
        url = f"{address or self.address()}/v1/models"
        with ThreadPoolExecutor(4) as pool:
            return Counter(pool.map(lambda _: version_at(url), range(requests)))

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Send requests during the block; fail if one of them fails."""
        url, stopped, failures = f"{self.address()}/v1/models", threading.Event(), list[Exception]()

        def send() -> None:
            while not stopped.wait(0.05):
                try:
                    version_at(url)
                except (OSError, HTTPException) as failure:
                    failures.append(failure)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            stopped.set()
            sender.join()
        assert failures == []

    def servers(self) -> Counter[int]:
        """Number of pods by version, without terminating ones."""
        pods = self.cluster.core.list_namespaced_pod(self.cluster.namespace, label_selector=self.selector).items
        return Counter(
            int(pod.metadata.labels[f"{PREFIX}version"]) for pod in pods if pod.metadata.deletion_timestamp is None
        )

    @property
    def selector(self) -> str:
        """Selects all objects of the endpoint."""
        return f"{PREFIX}endpoint={self.name}"


def version_at(url: str) -> int:
    """The version that answers a request on a new connection. httpx would load all certificates for each."""
    with urlopen(url, timeout=30) as answer:
        return int(json.load(answer)["version"])


@contextmanager
def endpoint_dag(
    name: str, dag_file: str, installation: Installation, cluster: Cluster, store: Store | None = None, **settings: str
) -> Iterator[EndpointDag]:
    """Start the DAG in a separate process.

    :param dag_file: text of the DAG file.
    :param store: replaces the installation's store.
    :param settings: additional environment variables.
    """
    store = store or installation.store
    file = installation.folder / "dags" / f"{name}-{uuid.uuid4().hex[:8]}.py"
    file.write_text(dag_file)
    log = installation.folder / f"{file.stem}.log"
    reading, writing = os.pipe()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "trigger_dag.py", file.name, str(writing)], pass_fds=[writing],
            env={**installation.environment, "PYTHONPATH": str(REPOSITORY), "AIRSMITH_STORE": store.uri, **settings},
            cwd=installation.folder, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    os.close(writing)
    with process, os.fdopen(reading) as results:
        assert process.stdin is not None
        yield EndpointDag(name, store, cluster, process.stdin, results, log)
        process.stdin.close()
    file.unlink()
