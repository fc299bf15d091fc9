"""What follows a training's pod in the triggerer: first its place in the queue, then its work."""

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

from airsmith.cluster.pod_failures import ending_of
from airsmith.cluster.queue import JOB_LABEL, is_held_back, pending_path, queue_of, waiting_line, workloads_path

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1, 15
"""Between two looks at a pod that waits. It starts when its turn has come, whoever looks."""
TIMEOUT_SECONDS = "timeout_seconds"
"""Of `trigger_kwargs`: longest time from the pod's turn to its end."""
STAGE, ENDING = "stage", "ending"
"""Of `trigger_kwargs`: the pod's stage; the error, as a JSON line, that the pod's last sight stands for."""
LONGEST_POLL_SECONDS = 10.0
POLLS_PER_AGE = 60
"""A pod is looked at after each sixtieth of its age: of many long trainings few requests come."""

_DEADLINE = "_execution_deadline"
"""Of `trigger_kwargs`, as KubernetesPodTrigger reads it."""


class QueuedPodTrigger(KubernetesPodTrigger):
    """Follow a pod as the provider's trigger does, once Kueue has let it go; until then tell its place in the queue.

    No timeout runs while the pod waits.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How another triggerer makes the same trigger."""
        return f"{__name__}.{type(self).__qualname__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the pod's turn, then for its end."""
        pod = await self._wait_for_turn()
        if TIMEOUT_SECONDS in self.trigger_kwargs:
            self.trigger_kwargs[_DEADLINE] = _began(pod).timestamp() + self.trigger_kwargs[TIMEOUT_SECONDS]
        async for event in super().run():
            yield event

    async def _get_pod(self) -> k8s.V1Pod:  # type: ignore[override]  # the provider's is wrapped by tenacity
        """The pod as it is now. Who ends it is kept in mind: when the task looks, it may be gone."""
        pod = await super()._get_pod()
        ending = ending_of(self.trigger_kwargs.get(STAGE, ""), pod)
        if ending is not None:
            self.trigger_kwargs[ENDING] = ending.to_json_line()
        age = (datetime.now(timezone.utc) - _began(pod)).total_seconds()
        self.poll_interval = min(max(age / POLLS_PER_AGE, FIRST_PAUSE_SECONDS), LONGEST_POLL_SECONDS)
        return pod

    async def _wait_for_turn(self) -> k8s.V1Pod | None:
        """Return the pod when nothing holds it back, or None when the cluster has no such pod to show."""
        pause, told, has_waited = FIRST_PAUSE_SECONDS, "", False
        while True:
            try:
                pod = await self.hook.get_pod(self.pod_name, self.pod_namespace)
                if not is_held_back(pod):
                    break
                uid = str(pod.metadata.uid)
                line = await place_in_queue(self.hook, self.pod_namespace, queue_of(pod), uid)
                has_waited = True
            except ApiException:
                return None  # What that means is the provider's trigger and the operator to say.
            except (ClientError, OSError, asyncio.TimeoutError) as unheard:
                line = f"The cluster does not answer ({type(unheard).__name__}): looking again."
            if line != told:
                self.log.info(line)
                told = line
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        if has_waited:
            waited = datetime.now(timezone.utc) - pod.metadata.creation_timestamp
            self.log.info("Its turn has come after %.0f s in queue %s.", waited.total_seconds(), queue_of(pod))
        return pod


async def place_in_queue(hook: AsyncKubernetesHook, namespace: str, queue: str, uid: str) -> str:
    """What to say of the place of a pod or a job; without it where nobody serves Kueue's visibility API.

    :param queue: the LocalQueue.
    :param uid: of what waits.
    """
    async with hook.get_conn() as client:
        pending = await _ask(client, pending_path(namespace, queue))
        workloads = await _ask(client, workloads_path(namespace), labelSelector=f"{JOB_LABEL}={uid}")
    return waiting_line(queue, uid, pending, workloads)


async def _ask(client: ApiClient, path: str, **query: str) -> Mapping[str, Any]:
    """An answer of the API server; empty where it has none for us."""
    try:
        answer: Mapping[str, Any] = await client.call_api(
            path, "GET", query_params=list(query.items()), header_params={"Accept": "application/json"},
            response_types_map={200: "object"}, auth_settings=["BearerToken"], _return_http_data_only=True,
        )  # fmt: skip
    except ApiException:
        return {}
    return answer


def _began(pod: k8s.V1Pod | None) -> datetime:
    """When the pod was given a node; now where it has none yet."""
    for condition in (pod.status.conditions or ()) if pod is not None else ():
        if condition.type == "PodScheduled" and condition.status == "True":
            moment: datetime = condition.last_transition_time
            return moment
    return datetime.now(timezone.utc)
