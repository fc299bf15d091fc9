"""Jobs of one engine in a namespace: made, read and removed. A job has the run's and the stage's name, as a pod has."""

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

from airsmith.cluster.jobs import Engine, Resource
from airsmith.cluster.jobs.job_kind import LONGEST_JOB_NAME, Object
from airsmith.cluster.labels import object_name
from airsmith.cluster.pod_failures import not_created
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

POLL_SECONDS = 1
COMPANION_SECONDS = 20
"""Longest wait for the cluster to know the object that a job names."""
FOREGROUND = "Foreground"
"""A job is gone when its pods are: two of them never work at once."""


def job_name(stage: str, run: Run, spec: RunSpec) -> str:
    """Name of a stage's job: readable, and another for every run and every trial of one."""
    trial = (run.trial_name,) if run.trial_name else ()
    return object_name(spec.recipe.name[:20], stage, run.name.rsplit("-", 1)[-1], *trial, longest=LONGEST_JOB_NAME)


@dataclass(frozen=True)
class Jobs:
    """The jobs of one engine in a namespace."""

    client: ApiClient
    engine: Engine
    namespace: str

    def read(self, name: str) -> Object | None:
        """A job as it is now; None where there is none."""
        found: Object | None = self._unless_missing(
            lambda: self._api.get_namespaced_custom_object(*self._place(self.engine.RESOURCE), name)
        )
        return found

    def create(self, stage: str, name: str, pod: k8s.V1Pod, nodes: int) -> Object | None:
        """Make a job and what it needs beside it.

        :param pod: the stage's, as it were on one node.
        :returns: None where another of that name is there.
        :raises AirsmithError: why the cluster takes none.
        """
        companion = self.engine.render_companion(name, pod, nodes)
        try:
            if companion is not None:
                assert self.engine.COMPANION is not None
                self._replace(self.engine.COMPANION, companion)
            return self._create(self.engine.render(name, pod, nodes))
        except ApiException as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                return None
            raise self._refused(stage, refusal) from refusal

    def remove(self, name: str, longest_seconds: float) -> None:
        """Delete a job, and wait until it and its pods are gone.

        :raises AirsmithError: `node_lost` where nobody can say whether its processes have ended.
        """
        self._delete(self.engine.RESOURCE, name)
        deadline = time.monotonic() + longest_seconds
        while self.read(name) is not None:
            if time.monotonic() > deadline:
                raise AirsmithError(
                    ErrorKind.NODE_LOST,
                    f"The earlier {self.engine.RESOURCE.kind} {name} does not end: a node may be lost with it at work.",
                    "Delete the node, or taint it node.kubernetes.io/out-of-service, once it is surely off.",
                )
            time.sleep(POLL_SECONDS)
        if self.engine.COMPANION is not None:
            self._delete(self.engine.COMPANION, name)

    def pods(self, selector: str) -> list[k8s.V1Pod]:
        """Pods with these labels."""
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
        """Make a job, once what checks it knows what was made for it a moment ago: a webhook answers from a cache."""
        deadline = time.monotonic() + COMPANION_SECONDS
        while True:
            try:
                job: Object = self._api.create_namespaced_custom_object(*self._place(self.engine.RESOURCE), content)
                return job
            except ApiException as refusal:
                if not self._misses_companion(refusal) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _misses_companion(self, refusal: ApiException) -> bool:
        companion, said = self.engine.COMPANION, str(refusal.body)
        return companion is not None and companion.kind in said and "not found" in said

    def _replace(self, resource: Resource, content: Object) -> None:
        """Make an object, in the place of what an earlier try has left."""
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
        kind = self.engine.RESOURCE.kind
        if refusal.status == HTTPStatus.NOT_FOUND:
            return AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The cluster knows no {kind} in namespace {self.namespace}: what runs it is not installed.",
                "Install it (docs/kubernetes.md names each engine's chart), or choose another backend.job.",
            )
        return not_created(stage, refusal)

    @staticmethod
    def _unless_missing(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except ApiException as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise
