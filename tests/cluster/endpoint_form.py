"""The DAG `endpoint` at hand: its form is filled in, its tasks are run, and what the endpoint then does is counted."""

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
from tests.cluster.deploying import REPOSITORY, Cluster, Deployment

REQUESTS = 200


@dataclass
class EndpointForm:
    """What a person sees of one endpoint: the trigger form, the tasks' ends and log, and its answers.

    :param name: of the endpoint.
    """

    name: str
    store: Store
    cluster: Cluster
    forms: IO[str]
    ends: IO[str]
    log: Path
    read: int = 0

    def trigger(self, action: str, **fields: Any) -> dict[str, str]:
        """Fill in the form and wait for the end of the run.

        :returns: how its tasks ended.
        """
        self.read = len(self.log.read_text())
        form = {**dict.fromkeys(EndpointChange.model_fields), "action": action, "endpoint": self.name, **fields}
        print(json.dumps(form), file=self.forms, flush=True)
        ended = self.ends.readline()
        assert ended, self.log.read_text()
        return dict(json.loads(ended))

    def said(self) -> str:
        """The log of the last run."""
        return self.log.read_text()[self.read :]

    def record(self) -> Endpoint:
        """The endpoint as the store has it."""
        endpoint = read_endpoint(self.store, self.name)
        assert endpoint is not None
        return endpoint

    def address(self) -> str:
        """Of its Service, as this machine reaches it."""
        service = self.cluster.core.read_namespaced_service(self.name, self.cluster.namespace)
        return f"http://{service.spec.cluster_ip}:{PORT}"

    def answers(self, address: str | None = None, requests: int = REQUESTS) -> Counter[int]:
        """How many of so many requests, each on a connection of its own, every version answers."""
        url = f"{address or self.address()}/v1/models"
        with ThreadPoolExecutor(4) as pool:
            return Counter(pool.map(lambda _: version_at(url), range(requests)))

    @contextmanager
    def asked_all_along(self) -> Iterator[None]:
        """Ask again and again, and let no request go unanswered."""
        url, ended, failures = f"{self.address()}/v1/models", threading.Event(), list[Exception]()

        def ask() -> None:
            while not ended.wait(0.05):
                try:
                    version_at(url)
                except (OSError, HTTPException) as failure:
                    failures.append(failure)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            ended.set()
            asking.join()
        assert failures == []

    def servers(self) -> Counter[int]:
        """Its pods by version, without those that end."""
        pods = self.cluster.core.list_namespaced_pod(self.cluster.namespace, label_selector=self.selector).items
        return Counter(
            int(pod.metadata.labels[f"{PREFIX}version"]) for pod in pods if pod.metadata.deletion_timestamp is None
        )

    @property
    def selector(self) -> str:
        """Finds all that is in the cluster of the endpoint."""
        return f"{PREFIX}endpoint={self.name}"


def version_at(url: str) -> int:
    """Which version answers a request on a connection of its own; httpx would read all certificates for each."""
    with urlopen(url, timeout=30) as answer:
        return int(json.load(answer)["version"])


@contextmanager
def endpoint_form(
    name: str, dag_file: str, deployment: Deployment, cluster: Cluster, store: Store | None = None, **settings: str
) -> Iterator[EndpointForm]:
    """The DAG in a process of its own.

    :param dag_file: its text.
    :param store: another one than the deployment's.
    :param settings: variables of Airsmith beside those of the deployment.
    """
    store = store or deployment.store
    file = deployment.folder / "dags" / f"{name}-{uuid.uuid4().hex[:8]}.py"
    file.write_text(dag_file)
    log = deployment.folder / f"{file.stem}.log"
    reading, writing = os.pipe()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "trigger.py", file.name, str(writing)], pass_fds=[writing],
            env={**deployment.environment, "PYTHONPATH": str(REPOSITORY), "AIRSMITH_STORE": store.uri, **settings},
            cwd=deployment.folder, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    os.close(writing)
    with process, os.fdopen(reading) as ends:
        assert process.stdin is not None
        yield EndpointForm(name, store, cluster, process.stdin, ends, log)
        process.stdin.close()
    file.unlink()
