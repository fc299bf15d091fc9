"""A pod like those of the stages, that looks at store, Hub and registries from where they will."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.labels import PREFIX, label_value, object_name
from airsmith.cluster.pod_failures import (
    failure_of,
    has_ended,
    has_succeeded,
    missing,
    not_created,
    trouble_told,
    unscheduled_reason,
    waiting_reason,
)
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import ErrorKind
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

NAME = "preflight"
PULL_SECRETS = "/var/run/airsmith/pull-secrets"
POLL_SECONDS = 0.5
PATIENCE_SECONDS = {ErrorKind.IMAGE_PULL_FAILED: 20}
"""A registry that fails may answer the kubelet's next try. A name or a Secret that is wrong stays wrong."""
LONGEST_SECONDS = 300
"""Longest time that the checks themselves may take; also ends a pod that nobody follows any more."""


def probe_pod(run: Run, spec: RunSpec, settings: Settings) -> k8s.V1Pod:
    """The pod of the light image that checks, as a mirror would run: same store, same token, same disk, same rights."""
    pod = stage_pod("mirror_model", run, spec, "", settings)
    pod.metadata.name = object_name(spec.recipe.name[:30], NAME, run.path.rsplit("-", 1)[-1])
    pod.metadata.labels = {**pod.metadata.labels, f"{PREFIX}stage": label_value(NAME)}
    pod.spec.active_deadline_seconds = int(_startup_seconds(settings)) + LONGEST_SECONDS
    container = pod.spec.containers[0]
    container.args = [NAME, "--run", run.uri]
    if settings.kubernetes.image_pull_secrets:
        container.args += ["--pull-secrets", PULL_SECRETS]
        _mount_pull_secrets(pod.spec, container, settings.kubernetes.image_pull_secrets)
    return pod


def run_probe(pod: k8s.V1Pod, settings: Settings, client: ApiClient) -> None:
    """Run the pod to its end, and remove it.

    :raises AirsmithError: everything that it found wrong, or why it could not look.
    """
    with _standing(pod, client):
        ended = _wait(pod, _startup_seconds(settings), client)
        if not has_succeeded(ended):
            raise failure_of(NAME, ended, _events(ended, client))


def _startup_seconds(settings: Settings) -> float:
    return settings.backend("cpu").startup_timeout_seconds


def _mount_pull_secrets(spec: k8s.V1PodSpec, container: k8s.V1Container, names: tuple[str, ...]) -> None:
    """By reference, and optional: a Secret that is missing is the registry's to complain about."""
    for number, name in enumerate(names):
        volume = f"pull-secret-{number}"
        secret = k8s.V1SecretVolumeSource(secret_name=name, optional=True)
        spec.volumes.append(k8s.V1Volume(name=volume, secret=secret))
        container.volume_mounts.append(
            k8s.V1VolumeMount(name=volume, mount_path=f"{PULL_SECRETS}/{name}", read_only=True)
        )


@contextmanager
def _standing(pod: k8s.V1Pod, client: ApiClient) -> Iterator[None]:
    """The pod, in the place of any that an earlier try has left, for the length of the block."""
    _delete(pod, client)
    try:
        CoreV1Api(client).create_namespaced_pod(pod.metadata.namespace, pod)
    except ApiException as refusal:
        raise not_created(NAME, refusal) from refusal
    try:
        yield
    finally:
        _delete(pod, client)


def _wait(pod: k8s.V1Pod, startup_seconds: float, client: ApiClient) -> k8s.V1Pod:
    """The pod once it has ended, or cannot start."""
    begun = time.monotonic()
    said = ""
    while True:
        found = _read(pod, client)
        if found is None:
            raise missing(NAME, pod.metadata.name)
        waited_seconds = time.monotonic() - begun
        hopeless = waiting_reason(found)
        if has_ended(found) or waited_seconds > startup_seconds + LONGEST_SECONDS:
            return found
        if hopeless is not None and waited_seconds > PATIENCE_SECONDS.get(hopeless[0], 3):
            return found
        if found.status.phase == "Pending" and waited_seconds > startup_seconds:
            return found
        now = hopeless[1] if hopeless else _state(found, client)
        if now != said:
            log.info("Pod %s: %s", pod.metadata.name, now)
            said = now
        time.sleep(POLL_SECONDS)


def _state(pod: k8s.V1Pod, client: ApiClient) -> str:
    """The pod's phase, or what keeps it from starting."""
    if pod.status.phase != "Pending":
        return str(pod.status.phase)
    return unscheduled_reason(pod) or trouble_told(_events(pod, client)) or "Pending"


def _events(pod: k8s.V1Pod, client: ApiClient) -> list[k8s.CoreV1Event]:
    about = f"involvedObject.uid={pod.metadata.uid}"
    return list(CoreV1Api(client).list_namespaced_event(pod.metadata.namespace, field_selector=about).items)


def _read(pod: k8s.V1Pod, client: ApiClient) -> k8s.V1Pod | None:
    try:
        return CoreV1Api(client).read_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _delete(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Remove the pod, and wait until its name is free."""
    try:
        CoreV1Api(client).delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return
        raise
    while _read(pod, client) is not None:
        time.sleep(POLL_SECONDS)
