"""A PodManager for the pods of short stages, which notices sooner than the provider's that a pod has finished."""

from __future__ import annotations

import time

from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager, PodPhase
from kubernetes.client import models as k8s

POLL_SECONDS = 0.2
FAST_POLLING_SECONDS = 10
"""Time in which a pod usually finishes after the end of its log; later polls are the provider's."""


class StagePodManager(PodManager):
    """The provider's PodManager, which itself polls a pod every two seconds."""

    def await_pod_completion(
        self, pod: k8s.V1Pod, istio_enabled: bool = False, container_name: str = "base", do_xcom_push: bool = False
    ) -> k8s.V1Pod:
        """Wait until a pod whose log has ended has finished."""
        deadline = time.monotonic() + FAST_POLLING_SECONDS
        while time.monotonic() < deadline and self.read_pod(pod).status.phase not in PodPhase.terminal_states:
            time.sleep(POLL_SECONDS)
        return super().await_pod_completion(pod, istio_enabled, container_name, do_xcom_push)
