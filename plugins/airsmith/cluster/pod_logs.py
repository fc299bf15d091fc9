"""The tail of a finished pod's log: the lines written after the triggerer last read it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException


class Logger(Protocol):
    """Python's loggers, and Airflow's."""

    def info(self, message: str, /, *values: object) -> object:
        """Log a message."""

    def warning(self, message: str, /, *values: object) -> object:
        """Log a warning."""


def show_log_since(pod: k8s.V1Pod, container: str, since: str | None, client: ApiClient, log: Logger) -> None:
    """Show a pod's log from a time on. The kubelet's `sinceTime` has whole seconds, so the lines' timestamps decide.

    :param since: ISO 8601 time; None shows the whole log.
    """
    begin = None if since is None else datetime.fromisoformat(since).replace(microsecond=0)
    try:
        answer = CoreV1Api(client).read_namespaced_pod_log(
            pod.metadata.name, pod.metadata.namespace, container=container, timestamps=True, _preload_content=False
        )
    except ApiException as refusal:
        log.warning("Cannot read the rest of the log of pod %s: %s", pod.metadata.name, refusal.reason)
        return
    for line in answer.data.decode(errors="replace").splitlines():
        timestamp, _, text = line.partition(" ")
        if begin is None or _second(timestamp) >= begin:
            log.info("[%s] %s", container, text)


def _second(timestamp: str) -> datetime:
    """A kubelet's timestamp truncated to the second; its fraction has up to nine digits."""
    return datetime.fromisoformat(f"{timestamp[:19]}+00:00")
