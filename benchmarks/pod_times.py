"""Watch a namespace's pods for their creation times and termination messages."""

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


@dataclass
class PodTimes:
    """One pod.

    :ivar task_id: id of its task, from the label that Airflow sets.
    :ivar created_at: time of its first watch event, in seconds since the epoch.
    :ivar termination_message: of its container.
    """

    task_id: str
    created_at: float
    termination_message: str = ""


@dataclass
class WatchedPods:
    """All pods so far, by uid."""

    pods: dict[str, PodTimes] = field(default_factory=dict)

    def update(self, pod: k8s.V1Pod) -> None:
        """Record the current state of a pod."""
        task_id = (pod.metadata.labels or {}).get("task_id", "")
        times = self.pods.setdefault(pod.metadata.uid, PodTimes(task_id, time.time()))
        for status in pod.status.container_statuses or ():
            if status.state and status.state.terminated and status.state.terminated.message:
                times.termination_message = status.state.terminated.message

    def pod_of(self, task_id: str, start: float, end: float) -> PodTimes | None:
        """The pod that a task created between two points in time."""
        matching = (pod for pod in self.pods.values() if pod.task_id == task_id and start <= pod.created_at <= end)
        return next(matching, None)


@contextmanager
def watched_pods(cluster: Cluster) -> Iterator[WatchedPods]:
    """Watch the namespace's pods while the block runs."""
    watched, watch = WatchedPods(), kubernetes.watch.Watch()

    def follow() -> None:
        # After the block has finished, the server may close the stream at any time.
        with suppress(HTTPError):
            for event in watch.stream(cluster.core.list_namespaced_pod, cluster.namespace, _request_timeout=3600):
                watched.update(event["object"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watch.stop()
