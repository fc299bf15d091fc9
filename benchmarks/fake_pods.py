"""Pods on fake nodes (KWOK): they run until they are told to end, and nothing runs in them."""

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
    """The pods of a namespace, and when each was told to end.

    :ivar running: names of those at work.
    :ivar ended_at: in seconds since the epoch.
    """

    cluster: Cluster
    running: set[str] = field(default_factory=set)
    ended_at: dict[str, float] = field(default_factory=dict)

    def see(self, event: str, pod: k8s.V1Pod) -> None:
        """Let a new pod run for long, and keep track of those that do."""
        if event == "ADDED":
            self.cluster.core.patch_namespaced_pod(pod.metadata.name, pod.metadata.namespace, RUN_FOR)
        if pod.status.phase == "Running" and event != "DELETED":
            self.running.add(pod.metadata.name)
        else:
            self.running.discard(pod.metadata.name)

    def end(self, name: str) -> None:
        """Let a pod have ended well."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        status = {"phase": "Succeeded", "containerStatuses": [
            {"name": "base", "image": "fake", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
        ]}  # fmt: skip
        self.cluster.core.patch_namespaced_pod_status(name, self.cluster.namespace, {"status": status})
        self.ended_at[name] = time.time()


@contextmanager
def fake_pods(cluster: Cluster) -> Iterator[FakePods]:
    """The namespace's pods as long as the block lasts."""
    pods, watch = FakePods(cluster), kubernetes.watch.Watch()

    def follow() -> None:
        # Once the block has ended the server may end the stream as it likes.
        with suppress(HTTPError):
            for event in watch.stream(cluster.core.list_namespaced_pod, cluster.namespace):
                pods.see(event["type"], event["object"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield pods
    finally:
        watch.stop()
