"""Jobs of one kind in a namespace: created, read and deleted. A job is named after its run and stage, as a pod is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.jobs import JobKind, Resource
from airsmith.cluster.jobs.job_kind import MAX_JOB_NAME_LENGTH, Object
from airsmith.cluster.labels import object_name
from airsmith.cluster.pod_failures import creation_error
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

POLL_SECONDS = 1
COMPANION_SECONDS = 20
"""Maximum wait until webhooks see the companion object that a job refers to."""
FOREGROUND = "Foreground"
"""Deletion propagation with which a job exists until its pods are gone, so that two never train at once."""


def job_name(stage: str, run: Run, spec: RunSpec) -> str:
    """Name of a stage's job: readable, and unique per run and trial."""
    trial = (run.trial_name,) if run.trial_name else ()
    return object_name(
        spec.recipe.name[:20], stage, run.name.rsplit("-", 1)[-1], *trial, max_length=MAX_JOB_NAME_LENGTH
    )


@dataclass(frozen=True)
class JobClient:
    """The jobs of one job kind in a namespace."""

    client: ApiClient
    job_kind: JobKind
    namespace: str

    def read(self, name: str) -> Object | None:
        """A job, or None if it does not exist."""
        found: Object | None = self._unless_missing(
            lambda: self._api.get_namespaced_custom_object(*self._place(self.job_kind.RESOURCE), name)
        )
        return found

    def create(self, stage: str, name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
        """Create a job and its companion.

        :param pod: the stage's pod for a single node.
        :returns: None if a job of that name already exists.
        :raises AirsmithError: if the cluster rejects it.
        """
        companion = self.job_kind.render_companion(name, pod, nodes)
        try:
            if companion is not None:
                assert self.job_kind.COMPANION is not None
                self._replace(self.job_kind.COMPANION, companion)
            return self._create(self.job_kind.render(name, pod, nodes))
        except ApiException as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                return None
            raise self._refused(stage, refusal) from refusal

    def delete(self, name: str, timeout_seconds: float) -> None:
        """Delete a job, and wait until it and its pods are gone.

        :raises AirsmithError: `node_lost` if a pod's node may still run it.
        """
        self._delete(self.job_kind.RESOURCE, name)
        deadline = time.monotonic() + timeout_seconds
        while self.read(name) is not None:
            if time.monotonic() > deadline:
                raise AirsmithError(
                    ErrorKind.NODE_LOST,
                    f"The earlier {self.job_kind.RESOURCE.kind} {name} is not deleted: a lost node may still run it.",
                    "After the node is powered off, delete it or taint it node.kubernetes.io/out-of-service.",
                )
            time.sleep(POLL_SECONDS)
        if self.job_kind.COMPANION is not None:
            self._delete(self.job_kind.COMPANION, name)

    def pods(self, selector: str) -> list[k8s.V1Pod]:
        """Pods that match a label selector."""
        found: list[k8s.V1Pod] = (
            CoreV1Api(self.client).list_namespaced_pod(self.namespace, label_selector=selector).items
        )
        return found

    @property
    def _api(self) -> CustomObjectsApi:
        return CustomObjectsApi(self.client)

    def _place(self, resource: Resource) -> tuple[str, str, str, str]:
        return resource.group, resource.version, self.namespace, resource.plural

    def _create(self, content: Object) -> Object:
        """Create a job; retry while a webhook's cache does not contain the companion that was just created."""
        deadline = time.monotonic() + COMPANION_SECONDS
        while True:
            try:
                job: Object = self._api.create_namespaced_custom_object(*self._place(self.job_kind.RESOURCE), content)
                return job
            except ApiException as refusal:
                if not self._misses_companion(refusal) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _misses_companion(self, refusal: ApiException) -> bool:
        companion, message = self.job_kind.COMPANION, str(refusal.body)
        return companion is not None and companion.kind in message and "not found" in message

    def _replace(self, resource: Resource, content: Object) -> None:
        """Create an object, or update the one that an earlier try has left."""
        try:
            self._api.create_namespaced_custom_object(*self._place(resource), content)
        except ApiException as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise
            self._api.patch_namespaced_custom_object(*self._place(resource), content["metadata"]["name"], content)

    def _delete(self, resource: Resource, name: str) -> None:
        place = self._place(resource)
        self._unless_missing(
            lambda: self._api.delete_namespaced_custom_object(*place, name, propagation_policy=FOREGROUND)
        )

    def _refused(self, stage: str, refusal: ApiException) -> AirsmithError:
        kind = self.job_kind.RESOURCE.kind
        if refusal.status == HTTPStatus.NOT_FOUND:
            return AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The cluster does not support {kind}, the job kind of backend.job: its controller is not installed.",
                "Install it (docs/kubernetes.md names each job kind's chart), or choose another backend.job.",
            )
        return creation_error(stage, refusal)

    @staticmethod
    def _unless_missing(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except ApiException as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise
