"""Follows a training's pod in the triggerer: first its position in the queue, then its progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent
from kubernetes.client import models as k8s
from kubernetes_asyncio.client import ApiClient, ApiException

from airsmith.cluster.pod_failures import disruption_of
from airsmith.cluster.queue import JOB_LABEL, is_queued, pending_path, queue_of, waiting_line, workloads_path

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1, 15
"""Pauses between polls of a queued pod."""
TIMEOUT_SECONDS = "timeout_seconds"
"""Key of `trigger_kwargs`: maximum time from the pod's admission to its end."""
STAGE, DISRUPTION = "stage", "disruption"
"""Keys of `trigger_kwargs`: the pod's stage; why the cluster terminated the pod, as an error's JSON line."""
MAX_POLL_SECONDS = 10.0
POLLS_PER_AGE = 60
"""A pod is polled after each sixtieth of its age, so that many long trainings make few requests."""

_DEADLINE = "_execution_deadline"
"""Key of `trigger_kwargs` that KubernetesPodTrigger reads."""


class QueuedPodTrigger(KubernetesPodTrigger):
    """Log a pod's position in Kueue's queue until it is admitted; then follow it as the provider's trigger does.

    No timeout runs while the pod is queued.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer recreates this trigger."""
        return f"{__name__}.{type(self).__qualname__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the pod's admission, then for its end."""
        pod = await self._wait_for_admission()
        if TIMEOUT_SECONDS in self.trigger_kwargs:
            self.trigger_kwargs[_DEADLINE] = _scheduled_at(pod).timestamp() + self.trigger_kwargs[TIMEOUT_SECONDS]
        async for event in super().run():
            yield event

    async def _get_pod(self) -> k8s.V1Pod:  # type: ignore[override]  # the provider's is wrapped by tenacity
        """The pod as it is now. A disruption is recorded: when the task resumes, the pod may be deleted."""
        pod = await super()._get_pod()
        disruption = disruption_of(self.trigger_kwargs.get(STAGE, ""), pod)
        if disruption is not None:
            self.trigger_kwargs[DISRUPTION] = disruption.to_json_line()
        age = (datetime.now(timezone.utc) - _scheduled_at(pod)).total_seconds()
        self.poll_interval = min(max(age / POLLS_PER_AGE, FIRST_PAUSE_SECONDS), MAX_POLL_SECONDS)
        return pod

    async def _wait_for_admission(self) -> k8s.V1Pod | None:
        """Return the pod when it is not queued, or None if it cannot be read."""
        pause, logged, has_waited = FIRST_PAUSE_SECONDS, "", False
        while True:
            try:
                pod = await self.hook.get_pod(self.pod_name, self.pod_namespace)
                if not is_queued(pod):
                    break
                uid = str(pod.metadata.uid)
                line = await queue_status(self.hook, self.pod_namespace, queue_of(pod), uid)
                has_waited = True
            except ApiException:
                return None  # The provider's trigger and the operator report what that means.
            except (ClientError, OSError, asyncio.TimeoutError) as failure:
                line = f"The cluster does not respond ({type(failure).__name__}). Retrying."
            if line != logged:
                self.log.info(line)
                logged = line
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        if has_waited:
            waited = datetime.now(timezone.utc) - pod.metadata.creation_timestamp
            self.log.info("Admitted after %.0f s in queue %s.", waited.total_seconds(), queue_of(pod))
        return pod


async def queue_status(hook: AsyncKubernetesHook, namespace: str, queue: str, uid: str) -> str:
    """One line about a queued pod or job; it includes the position if the cluster serves Kueue's visibility API.

    :param queue: name of the LocalQueue.
    :param uid: UID of the pod or job.
    """
    async with hook.get_conn() as client:
        pending = await _ask(client, pending_path(namespace, queue))
        workloads = await _ask(client, workloads_path(namespace), labelSelector=f"{JOB_LABEL}={uid}")
    return waiting_line(queue, uid, pending, workloads)


async def _ask(client: ApiClient, path: str, **query: str) -> Mapping[str, Any]:
    """A response of the API server; empty if it rejects the request."""
    try:
        answer: Mapping[str, Any] = await client.call_api(
            path, "GET", query_params=list(query.items()), header_params={"Accept": "application/json"},
            response_types_map={200: "object"}, auth_settings=["BearerToken"], _return_http_data_only=True,
        )  # fmt: skip
    except ApiException:
        return {}
    return answer


def _scheduled_at(pod: k8s.V1Pod | None) -> datetime:
    """When the pod was scheduled; now if it is not yet."""
    for condition in (pod.status.conditions or ()) if pod is not None else ():
        if condition.type == "PodScheduled" and condition.status == "True":
            scheduled_at: datetime = condition.last_transition_time
            return scheduled_at
    return datetime.now(timezone.utc)
