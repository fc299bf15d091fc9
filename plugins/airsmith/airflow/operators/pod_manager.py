"""What follows the pod of a short stage: the provider's, but it notices at once that the pod has ended."""

from __future__ import annotations

import time

from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager, PodPhase
from kubernetes.client import models as k8s

LOOK_SECONDS = 0.2
PROMPT_SECONDS = 10
"""By then a pod whose log has ended has ended itself; one that has not is no matter of seconds."""


class StagePodManager(PodManager):
    """The provider's PodManager, whose pause between two looks at a pod is two seconds."""

    def await_pod_completion(
        self, pod: k8s.V1Pod, istio_enabled: bool = False, container_name: str = "base", do_xcom_push: bool = False
    ) -> k8s.V1Pod:
        """Wait for the end of a pod whose log has ended already."""
        deadline = time.monotonic() + PROMPT_SECONDS
        while time.monotonic() < deadline and self.read_pod(pod).status.phase not in PodPhase.terminal_states:
            time.sleep(LOOK_SECONDS)
        return super().await_pod_completion(pod, istio_enabled, container_name, do_xcom_push)
