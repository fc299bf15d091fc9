"""A pod that checks store, Hub and registries from where the stages' pods will access them."""

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
    creation_error,
    failure_of,
    has_finished,
    has_succeeded,
    latest_warning,
    pod_missing,
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
GRACE_SECONDS = {ErrorKind.IMAGE_PULL_FAILED: 20}
"""A failing registry may answer the kubelet's next attempt; a wrong image name or Secret stays wrong."""
MAX_CHECK_SECONDS = 300
"""Maximum duration of the checks; also the deadline of a pod whose worker has died."""


def probe_pod(run: Run, spec: RunSpec, settings: Settings) -> k8s.V1Pod:
    """The pod that runs the checks. It equals the pod of a mirror stage: same store, token, disk and permissions."""
    pod = stage_pod("mirror_model", run, spec, "", settings)
    pod.metadata.name = object_name(spec.recipe.name[:30], NAME, run.path.rsplit("-", 1)[-1])
    pod.metadata.labels = {**pod.metadata.labels, f"{PREFIX}stage": label_value(NAME)}
    pod.spec.active_deadline_seconds = int(_startup_seconds(settings)) + MAX_CHECK_SECONDS
    container = pod.spec.containers[0]
    container.args = [NAME, "--run", run.uri]
    if settings.kubernetes.image_pull_secrets:
        container.args += ["--pull-secrets", PULL_SECRETS]
        _mount_pull_secrets(pod.spec, container, settings.kubernetes.image_pull_secrets)
    return pod


def run_probe(pod: k8s.V1Pod, settings: Settings, client: ApiClient) -> None:
    """Run the pod, and delete it.

    :raises AirsmithError: all failed checks, or why the pod could not run.
    """
    with _standing(pod, client):
        ended = _wait(pod, _startup_seconds(settings), client)
        if not has_succeeded(ended):
            raise failure_of(NAME, ended, _events(ended, client))


def _startup_seconds(settings: Settings) -> float:
    return settings.backend("cpu").startup_timeout_seconds


def _mount_pull_secrets(spec: k8s.V1PodSpec, container: k8s.V1Container, names: tuple[str, ...]) -> None:
    """Mount the pull secrets as optional: if one is missing, the check of the registry reports it."""
    for number, name in enumerate(names):
        volume = f"pull-secret-{number}"
        secret = k8s.V1SecretVolumeSource(secret_name=name, optional=True)
        spec.volumes.append(k8s.V1Volume(name=volume, secret=secret))
        container.volume_mounts.append(
            k8s.V1VolumeMount(name=volume, mount_path=f"{PULL_SECRETS}/{name}", read_only=True)
        )


@contextmanager
def _standing(pod: k8s.V1Pod, client: ApiClient) -> Iterator[None]:
    """The pod for the duration of the block, instead of any that an earlier try has left."""
    _delete(pod, client)
    try:
        CoreV1Api(client).create_namespaced_pod(pod.metadata.namespace, pod)
    except ApiException as refusal:
        raise creation_error(NAME, refusal) from refusal
    try:
        yield
    finally:
        _delete(pod, client)


def _wait(pod: k8s.V1Pod, startup_seconds: float, client: ApiClient) -> k8s.V1Pod:
    """The pod, after it has finished or if it cannot start."""
    begun = time.monotonic()
    logged = ""
    while True:
        found = _read(pod, client)
        if found is None:
            raise pod_missing(NAME, pod.metadata.name)
        waited_seconds = time.monotonic() - begun
        unstartable = waiting_reason(found)
        if has_finished(found) or waited_seconds > startup_seconds + MAX_CHECK_SECONDS:
            return found
        if unstartable is not None and waited_seconds > GRACE_SECONDS.get(unstartable[0], 3):
            return found
        if found.status.phase == "Pending" and waited_seconds > startup_seconds:
            return found
        state = unstartable[1] if unstartable else _state(found, client)
        if state != logged:
            log.info("Pod %s: %s", pod.metadata.name, state)
            logged = state
        time.sleep(POLL_SECONDS)


def _state(pod: k8s.V1Pod, client: ApiClient) -> str:
    """The pod's phase, or what prevents its start."""
    if pod.status.phase != "Pending":
        return str(pod.status.phase)
    return unscheduled_reason(pod) or latest_warning(_events(pod, client)) or "Pending"


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
    """Delete the pod, and wait until its name is free."""
    try:
        CoreV1Api(client).delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return
        raise
    while _read(pod, client) is not None:
        time.sleep(POLL_SECONDS)
