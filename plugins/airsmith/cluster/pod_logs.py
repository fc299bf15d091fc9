"""The rest of a pod's log, when it has ended: what was said after the triggerer's last look."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException


class Logger(Protocol):
    """Python's loggers, and Airflow's."""

    def info(self, message: str, /, *values: object) -> object:
        """Say something."""

    def warning(self, message: str, /, *values: object) -> object:
        """Say something unusual."""


def show_rest(pod: k8s.V1Pod, container: str, since: str | None, client: ApiClient, log: Logger) -> None:
    """Show a pod's lines from a moment on; the kubelet counts in whole seconds, so its timestamps decide.

    :param since: the moment, as ISO 8601; from the beginning where None.
    """
    begin = None if since is None else datetime.fromisoformat(since).replace(microsecond=0)
    try:
        answer = CoreV1Api(client).read_namespaced_pod_log(
            pod.metadata.name, pod.metadata.namespace, container=container, timestamps=True, _preload_content=False
        )
    except ApiException as refusal:
        log.warning("The rest of the log of pod %s cannot be read: %s", pod.metadata.name, refusal.reason)
        return
    for line in answer.data.decode(errors="replace").splitlines():
        moment, _, said = line.partition(" ")
        if begin is None or _second(moment) >= begin:
            log.info("[%s] %s", container, said)


def _second(timestamp: str) -> datetime:
    """The second of a timestamp of the kubelet, whose fractions have up to nine digits."""
    return datetime.fromisoformat(f"{timestamp[:19]}+00:00")
