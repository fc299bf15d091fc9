"""Follows a training's job in the triggerer: its position in a queue, its pods' start, its leader's log, its end."""

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

from airsmith.airflow.triggers.pod import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, queue_status
from airsmith.cluster.jobs import JOB_KINDS, JobKind, JobPhase
from airsmith.cluster.jobs.client import FOREGROUND
from airsmith.cluster.jobs.job_kind import Object
from airsmith.cluster.pod_failures import disruption_of, failure_of, has_finished, has_succeeded, waiting_reason
from airsmith.cluster.queue import QUEUE_LABEL
from airsmith.errors import AirsmithError, root_cause

LOG_SECONDS = 30
POLLS_PER_AGE = 60
"""A job is polled after each sixtieth of its age, so that many long trainings make few requests."""
MAX_POLL_SECONDS = 10.0
UNSTARTABLE_SECONDS = 60
"""Time after which a pod whose image cannot be pulled or whose Secret is missing counts as failed."""


class TrainingJobTrigger(BaseTrigger):
    """Follow a job until it finishes.

    The event holds `outcome` (`finished`, `missing`, `not_started`, `timeout`), the pods' most telling error as a JSON
    line, and how far the log was read. No timeout runs while a queue holds the job back.

    :param job_kind: the recipe's `backend.job`.
    :param nodes: number of pods that train.
    :param startup_seconds: maximum time until all pods are running.
    :param timeout_seconds: maximum time from the pods' start to their end.
    """

    def __init__(
        self,
        *,
        job_kind: str,
        name: str,
        namespace: str,
        kubernetes_conn_id: str | None,
        stage: str,
        nodes: int,
        startup_seconds: float,
        timeout_seconds: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_kind_name = job_kind
        self.name = name
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.stage = stage
        self.nodes = nodes
        self.startup_seconds = startup_seconds
        self.timeout_seconds = timeout_seconds
        self._errors: dict[str, AirsmithError] = {}
        self._leader_uid = ""
        self._read_until: Any = None  # a DateTime of pendulum, as the provider gives and takes it
        self._next_log = self._admitted_at = _now()
        self._all_started = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer recreates this trigger."""
        return f"{__name__}.{type(self).__qualname__}", {
            "job_kind": self.job_kind_name,
            "name": self.name,
            "namespace": self.namespace,
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "stage": self.stage,
            "nodes": self.nodes,
            "startup_seconds": self.startup_seconds,
            "timeout_seconds": self.timeout_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait until the job finishes."""
        outcome = await self._follow()
        error = root_cause(self._errors.values())
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "outcome": outcome,
                "error": error.to_json_line() if error is not None else "",
                "leader_uid": self._leader_uid,
                "read_until": None if self._read_until is None else self._read_until.isoformat(),
            }
        )

    async def on_kill(self) -> None:
        """Delete the job when a user stops the task; a restart of the triggerer leaves it running."""
        resource = self._job_kind.RESOURCE
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
        """Poll the job until it finishes or must be deleted.

        :returns: the event's `outcome`.
        """
        logged, queued_pause, started_at = "", float(FIRST_PAUSE_SECONDS), _now()
        while True:
            pause = float(FIRST_PAUSE_SECONDS)
            try:
                job = await self._read_job()
                if job is None:
                    return "missing"
                state = self._job_kind.state_of(job)
                if state.phase is JobPhase.QUEUED:
                    self._reset()
                    line, started_at, pause = await self._queue_status(job), self._admitted_at, queued_pause
                    queued_pause = min(2 * queued_pause, MAX_PAUSE_SECONDS)
                else:
                    pods = await self._pods(self._job_kind.pods_selector(job))
                    started_at = min([started_at, *(pod.metadata.creation_timestamp for pod in pods)])
                    self._record_errors(pods)
                    if state.has_finished:
                        return "finished"
                    overdue = self._overdue(pods, _seconds_since(started_at))
                    if overdue is not None:
                        return overdue
                    await self._show_log(job)
                    line, pause, queued_pause = self._progress(pods), _pause(started_at), FIRST_PAUSE_SECONDS
            except (ApiException, ClientError, OSError, asyncio.TimeoutError) as failure:
                line = f"The cluster does not respond ({type(failure).__name__}). Retrying."
            if line != logged:
                self.log.info(line)
                logged = line
            await asyncio.sleep(pause)

    async def _read_job(self) -> Object | None:
        resource = self._job_kind.RESOURCE
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

    async def _queue_status(self, job: Object) -> str:
        """The status of a suspended job, for the log."""
        metadata = job["metadata"]
        queue = (metadata.get("labels") or {}).get(QUEUE_LABEL)
        if queue is None:
            return f"{self._job_kind.RESOURCE.kind} {self.name} is suspended."
        return await queue_status(self._hook, self.namespace, queue, metadata["uid"])

    def _reset(self) -> None:
        """Forget the pods of an earlier admission: the job is queued, or queued again."""
        self._errors.clear()
        self._admitted_at, self._all_started = _now(), False

    def _record_errors(self, pods: Sequence[k8s.V1Pod]) -> None:
        """Record why pods failed: when the task resumes, they may be deleted."""
        for pod in pods:
            error = disruption_of(self.stage, pod)
            if error is None and has_finished(pod) and not has_succeeded(pod):
                error = failure_of(self.stage, pod)
            if error is not None:
                self._errors[pod.metadata.uid] = error

    def _progress(self, pods: Sequence[k8s.V1Pod]) -> str:
        running = sum(pod.status.phase == "Running" for pod in pods)
        nodes = sorted({str(pod.spec.node_name) for pod in pods if pod.spec.node_name})
        return f"{running} of {self.nodes} pods are running{', on ' + ', '.join(nodes) if nodes else ''}."

    def _overdue(self, pods: Sequence[k8s.V1Pod], seconds: float) -> str | None:
        """The `outcome` of a job that must be deleted; None if it is in time."""
        if self._is_stuck(pods):
            return "not_started"
        return "timeout" if self.timeout_seconds is not None and seconds > self.timeout_seconds else None

    def _is_stuck(self, pods: Sequence[k8s.V1Pod]) -> bool:
        """Whether a pod has not started in time, or was never created. The reason is recorded.

        Pods that ran and no longer exist do not count: their job is about to finish.
        """
        waiting = [pod for pod in pods if pod.status.phase == "Pending"]
        late = [pod for pod in waiting if _seconds_since(pod.metadata.creation_timestamp) > self._max_wait_seconds(pod)]
        self._errors.update({pod.metadata.uid: failure_of(self.stage, pod) for pod in late})
        self._all_started = self._all_started or len(pods) - len(waiting) >= self.nodes
        has_waited = _seconds_since(self._admitted_at) > self.startup_seconds
        return bool(late) or (has_waited and not self._all_started and len(pods) < self.nodes)

    def _max_wait_seconds(self, pod: k8s.V1Pod) -> float:
        return self.startup_seconds if waiting_reason(pod) is None else min(UNSTARTABLE_SECONDS, self.startup_seconds)

    async def _show_log(self, job: Object) -> None:
        """Show the leader's new log lines, at most every `LOG_SECONDS`."""
        if _now() < self._next_log:
            return
        self._next_log = _now() + timedelta(seconds=LOG_SECONDS)
        for leader in await self._pods(self._job_kind.leader_selector(job)):
            if leader.status.phase != "Running":
                continue
            if leader.metadata.uid != self._leader_uid:
                self._leader_uid, self._read_until = leader.metadata.uid, None
            self._read_until = await self._pod_manager.fetch_container_logs_before_current_sec(
                leader, container_name=self._job_kind.CONTAINER, since_time=self._read_until
            )

    @cached_property
    def _job_kind(self) -> JobKind:
        return JOB_KINDS[self.job_kind_name]

    @cached_property
    def _hook(self) -> AsyncKubernetesHook:
        return AsyncKubernetesHook(conn_id=self.kubernetes_conn_id)

    @cached_property
    def _pod_manager(self) -> AsyncPodManager:
        return AsyncPodManager(async_hook=self._hook)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _seconds_since(time: datetime) -> float:
    return (_now() - time).total_seconds()


def _pause(started_at: datetime) -> float:
    return min(max(_seconds_since(started_at) / POLLS_PER_AGE, FIRST_PAUSE_SECONDS), MAX_POLL_SECONDS)
