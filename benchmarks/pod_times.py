"""When a namespace's pods appeared, and what their containers said last, seen while they come and go."""

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

    :ivar task_id: of the task whose pod it is, from the label that Airflow gives it.
    :ivar created_at: when the watch told of it, in seconds since the epoch.
    :ivar last_words: its container's termination message.
    """

    task_id: str
    created_at: float
    last_words: str = ""


@dataclass
class Watched:
    """All pods so far, by their uids."""

    pods: dict[str, PodTimes] = field(default_factory=dict)

    def see(self, pod: k8s.V1Pod) -> None:
        """Take note of what a pod is now."""
        task_id = (pod.metadata.labels or {}).get("task_id", "")
        times = self.pods.setdefault(pod.metadata.uid, PodTimes(task_id, time.time()))
        for status in pod.status.container_statuses or ():
            if status.state and status.state.terminated and status.state.terminated.message:
                times.last_words = status.state.terminated.message

    def pod_of(self, task_id: str, start: float, end: float) -> PodTimes | None:
        """The pod that a task made between two moments."""
        mine = (pod for pod in self.pods.values() if pod.task_id == task_id and start <= pod.created_at <= end)
        return next(mine, None)


@contextmanager
def watched_pods(cluster: Cluster) -> Iterator[Watched]:
    """What happens to the namespace's pods as long as the block lasts."""
    watched, watch = Watched(), kubernetes.watch.Watch()

    def follow() -> None:
        # Once the block has ended the server may end the stream as it likes.
        with suppress(HTTPError):
            for event in watch.stream(cluster.core.list_namespaced_pod, cluster.namespace, _request_timeout=3600):
                watched.see(event["object"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watch.stop()
