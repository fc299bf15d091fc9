"""What follows a training's job in the triggerer: its place in a queue, its pods' start, its leader's log, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from http import HTTPStatus
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes.client import models as k8s
from kubernetes_asyncio.client import ApiException, CoreV1Api, CustomObjectsApi

from airsmith.airflow.triggers.pod import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, place_in_queue
from airsmith.cluster.jobs import ENGINES, Engine, JobPhase
from airsmith.cluster.jobs.client import FOREGROUND
from airsmith.cluster.jobs.job_kind import Object
from airsmith.cluster.pod_failures import ending_of, failure_of, has_ended, has_succeeded, waiting_reason
from airsmith.cluster.queue import QUEUE_LABEL
from airsmith.errors import AirsmithError, most_telling

LOG_SECONDS = 30
POLLS_PER_AGE = 60
"""A job is looked at after each sixtieth of its age: of many long trainings few requests come."""
LONGEST_POLL_SECONDS = 10.0
HOPELESS_SECONDS = 60
"""After which an image that cannot be pulled, or a Secret that is missing, will not come by itself."""


class TrainingJobTrigger(BaseTrigger):
    """Follow a job to its end.

    The event holds `outcome` (`ended`, `missing`, `not_started`, `timeout`), what the pods' ends have said as the JSON
    line of an error, and how far the log was read. No timeout runs while a queue holds the job back.

    :param engine: the recipe's `backend.job`.
    :param nodes: how many pods train.
    :param startup_seconds: longest time until all pods are at work.
    :param timeout_seconds: longest time from the pods' start to their end.
    """

    def __init__(
        self,
        *,
        engine: str,
        name: str,
        namespace: str,
        kubernetes_conn_id: str | None,
        stage: str,
        nodes: int,
        startup_seconds: float,
        timeout_seconds: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine_name = engine
        self.name = name
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.stage = stage
        self.nodes = nodes
        self.startup_seconds = startup_seconds
        self.timeout_seconds = timeout_seconds
        self._seen: dict[str, AirsmithError] = {}
        self._leader_uid = ""
        self._read_until: Any = None  # a DateTime of pendulum, as the provider gives and takes it
        self._next_log = self._turn_came = _now()
        self._have_started = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How another triggerer makes the same trigger."""
        return f"{__name__}.{type(self).__qualname__}", {
            "engine": self.engine_name,
            "name": self.name,
            "namespace": self.namespace,
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "stage": self.stage,
            "nodes": self.nodes,
            "startup_seconds": self.startup_seconds,
            "timeout_seconds": self.timeout_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the job's end."""
        outcome = await self._follow()
        error = most_telling(self._seen.values())
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "outcome": outcome,
                "error": error.to_json_line() if error is not None else "",
                "leader_uid": self._leader_uid,
                "read_until": None if self._read_until is None else self._read_until.isoformat(),
            }
        )

    async def on_kill(self) -> None:
        """End the job when a person says so; a triggerer that restarts leaves it at work."""
        resource = self._engine.RESOURCE
        self.log.info("Deleting the %s %s.", resource.kind, self.name)
        place = (resource.group, resource.version, self.namespace, resource.plural)
        async with self._hook.get_conn() as client:
            try:
                await CustomObjectsApi(client).delete_namespaced_custom_object(
                    *place, self.name, propagation_policy=FOREGROUND
                )
            except ApiException as refusal:
                if refusal.status != HTTPStatus.NOT_FOUND:
                    self.log.error("%s %s could not be deleted: %s", resource.kind, self.name, refusal.reason)

    async def _follow(self) -> str:
        """Look again and again until there is an end, and say which."""
        told, queued_pause, begun = "", float(FIRST_PAUSE_SECONDS), _now()
        while True:
            pause = float(FIRST_PAUSE_SECONDS)
            try:
                job = await self._read_job()
                if job is None:
                    return "missing"
                state = self._engine.state_of(job)
                if state.phase is JobPhase.QUEUED:
                    self._begin_anew()
                    line, begun, pause = await self._queued(job), self._turn_came, queued_pause
                    queued_pause = min(2 * queued_pause, LONGEST_PAUSE_SECONDS)
                else:
                    pods = await self._pods(self._engine.pods_selector(job))
                    begun = min([begun, *(pod.metadata.creation_timestamp for pod in pods)])
                    self._keep_in_mind(pods)
                    if state.has_ended:
                        return "ended"
                    ending = self._ending(pods, _seconds_since(begun))
                    if ending is not None:
                        return ending
                    await self._show_log(job)
                    line, pause, queued_pause = self._progress(pods), _pause(begun), FIRST_PAUSE_SECONDS
            except (ApiException, ClientError, OSError, asyncio.TimeoutError) as unheard:
                line = f"The cluster does not answer ({type(unheard).__name__}): looking again."
            if line != told:
                self.log.info(line)
                told = line
            await asyncio.sleep(pause)

    async def _read_job(self) -> Object | None:
        resource = self._engine.RESOURCE
        async with self._hook.get_conn() as client:
            try:
                job: Object = await CustomObjectsApi(client).get_namespaced_custom_object(
                    resource.group, resource.version, self.namespace, resource.plural, self.name
                )
            except ApiException as refusal:
                if refusal.status == HTTPStatus.NOT_FOUND:
                    return None
                raise
        return job

    async def _pods(self, selector: str) -> list[k8s.V1Pod]:
        async with self._hook.get_conn() as client:
            return list((await CoreV1Api(client).list_namespaced_pod(self.namespace, label_selector=selector)).items)

    async def _queued(self, job: Object) -> str:
        """Where a job stands that is held back."""
        metadata = job["metadata"]
        queue = (metadata.get("labels") or {}).get(QUEUE_LABEL)
        if queue is None:
            return f"{self._engine.RESOURCE.kind} {self.name} is suspended."
        return await place_in_queue(self._hook, self.namespace, queue, metadata["uid"])

    def _begin_anew(self) -> None:
        """Forget the pods that were, if any: its turn is to come, or to come again."""
        self._seen.clear()
        self._turn_came, self._have_started = _now(), False

    def _keep_in_mind(self, pods: Sequence[k8s.V1Pod]) -> None:
        """Keep what the pods' ends say: when the task looks, they may be gone."""
        for pod in pods:
            error = ending_of(self.stage, pod)
            if error is None and has_ended(pod) and not has_succeeded(pod):
                error = failure_of(self.stage, pod)
            if error is not None:
                self._seen[pod.metadata.uid] = error

    def _progress(self, pods: Sequence[k8s.V1Pod]) -> str:
        at_work = sum(pod.status.phase == "Running" for pod in pods)
        where = sorted({str(pod.spec.node_name) for pod in pods if pod.spec.node_name})
        return f"{at_work} of {self.nodes} pods are at work{', on ' + ', '.join(where) if where else ''}."

    def _ending(self, pods: Sequence[k8s.V1Pod], seconds: float) -> str | None:
        """How a job is to be ended that would not end by itself."""
        if self._is_stuck(pods):
            return "not_started"
        return "timeout" if self.timeout_seconds is not None and seconds > self.timeout_seconds else None

    def _is_stuck(self, pods: Sequence[k8s.V1Pod]) -> bool:
        """Whether a pod has not started and will not, or was never made; why is kept in mind.

        Pods that were at work and are gone are no matter of a start: their job is about to end.
        """
        waiting = [pod for pod in pods if pod.status.phase == "Pending"]
        late = [pod for pod in waiting if _seconds_since(pod.metadata.creation_timestamp) > self._patience(pod)]
        self._seen.update({pod.metadata.uid: failure_of(self.stage, pod) for pod in late})
        self._have_started = self._have_started or len(pods) - len(waiting) >= self.nodes
        has_waited = _seconds_since(self._turn_came) > self.startup_seconds
        return bool(late) or (has_waited and not self._have_started and len(pods) < self.nodes)

    def _patience(self, pod: k8s.V1Pod) -> float:
        return self.startup_seconds if waiting_reason(pod) is None else min(HOPELESS_SECONDS, self.startup_seconds)

    async def _show_log(self, job: Object) -> None:
        """Show what the leader has said since the last time, now and then."""
        if _now() < self._next_log:
            return
        self._next_log = _now() + timedelta(seconds=LOG_SECONDS)
        for leader in await self._pods(self._engine.leader_selector(job)):
            if leader.status.phase != "Running":
                continue
            if leader.metadata.uid != self._leader_uid:
                self._leader_uid, self._read_until = leader.metadata.uid, None
            self._read_until = await self._pod_manager.fetch_container_logs_before_current_sec(
                leader, container_name=self._engine.CONTAINER, since_time=self._read_until
            )

    @cached_property
    def _engine(self) -> Engine:
        return ENGINES[self.engine_name]

    @cached_property
    def _hook(self) -> AsyncKubernetesHook:
        return AsyncKubernetesHook(conn_id=self.kubernetes_conn_id)

    @cached_property
    def _pod_manager(self) -> AsyncPodManager:
        return AsyncPodManager(async_hook=self._hook)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _seconds_since(moment: datetime) -> float:
    return (_now() - moment).total_seconds()


def _pause(begun: datetime) -> float:
    return min(max(_seconds_since(begun) / POLLS_PER_AGE, FIRST_PAUSE_SECONDS), LONGEST_POLL_SECONDS)
