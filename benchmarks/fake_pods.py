"""Pods on fake nodes (KWOK): they run no process, and terminate when their status is patched."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import kubernetes
from kubernetes.client import models as k8s
from urllib3.exceptions import HTTPError

from tests.cluster.installation import Cluster

RUN_FOR = {"metadata": {"annotations": {"fake.airsmith/run-for": "24h"}}}


@dataclass
class FakePods:
    """The pods of a namespace.

    :ivar running: names of the running pods.
    :ivar ended_at: name -> time of termination, in seconds since the epoch.
    """

    cluster: Cluster
    running: set[str] = field(default_factory=set)
    ended_at: dict[str, float] = field(default_factory=dict)

    def handle(self, event: str, pod: k8s.V1Pod) -> None:
        """Handle a watch event: let a new pod run for 24 h, and update `running`."""
        if event == "ADDED":
            self.cluster.core.patch_namespaced_pod(pod.metadata.name, pod.metadata.namespace, RUN_FOR)
        if pod.status.phase == "Running" and event != "DELETED":
            self.running.add(pod.metadata.name)
        else:
            self.running.discard(pod.metadata.name)

    def end(self, name: str) -> None:
        """Set a pod's status to `Succeeded`."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        status = {"phase": "Succeeded", "containerStatuses": [
            {"name": "base", "image": "fake", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
        ]}  # fmt: skip
        self.cluster.core.patch_namespaced_pod_status(name, self.cluster.namespace, {"status": status})
        self.ended_at[name] = time.time()


@contextmanager
def fake_pods(cluster: Cluster) -> Iterator[FakePods]:
    """Watch the namespace's pods while the block runs."""
    pods, watch = FakePods(cluster), kubernetes.watch.Watch()

    def follow() -> None:
        # After the block has finished, the server may close the stream at any time.
        with suppress(HTTPError):
            for event in watch.stream(cluster.core.list_namespaced_pod, cluster.namespace):
                pods.handle(event["type"], event["object"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield pods
    finally:
        watch.stop()
