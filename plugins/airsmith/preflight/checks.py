"""All checks of a run, reported together: pod admission, queue, a node for each pod, access to store and Hub."""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.labels import TaskOwner
from airsmith.cluster.pod_failures import creation_error
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.cache import stages_to_run
from airsmith.contracts.run import Run
from airsmith.errors.checks import check_all
from airsmith.preflight.job_kind import check_job_kind
from airsmith.preflight.placement import check_placement
from airsmith.preflight.probe import probe_pod, run_probe
from airsmith.preflight.queue import check_queue
from airsmith.preflight.quota import is_ever_within
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def preflight(run: Run, settings: Settings, client: ApiClient, owner: TaskOwner | None = None) -> None:
    """Find what would stop the run's pods. Nothing is checked if every stage already has its output.

    :param owner: owner of the pod that checks store and Hub, for the janitor.
    :raises AirsmithError: all failed checks, each with its remedy.
    """
    spec = run.read_spec()
    stages = stages_to_run(run, spec)
    if not stages:
        log.info("Every stage already has its output: no pod will start.")
        return
    log.info("Pods will start for %s.", ", ".join(stages))
    probe = probe_pod(run, spec, settings)
    if owner is not None:
        probe.metadata.annotations.update(owner.annotations())
    check_admission("preflight", probe, client)  # If this fails, the other checks add nothing.
    pods = {stage: stage_pod(stage, run, spec, "", settings) for stage in stages}
    check_all(
        [
            *(partial(check_admission, stage, pod, client) for stage, pod in pods.items()),
            partial(check_queue, spec.recipe.backend, settings.kubernetes.namespace, client),
            partial(check_job_kind, spec.recipe.backend, client),
            partial(_check_placement, pods, settings, client),
            partial(run_probe, probe, settings, client),
        ]
    )
    log.info("All checks passed.")


def check_admission(stage: str, pod: k8s.V1Pod, client: ApiClient) -> None:
    """Check a pod by a server-side dry run, which includes all admission plugins.

    A quota that is exhausted only at the moment is no failure: the stage waits for it later.

    :raises AirsmithError: if the API server rejects the pod.
    """
    try:
        CoreV1Api(client).create_namespaced_pod(pod.metadata.namespace, pod, dry_run="All")
    except ApiException as refusal:
        if refusal.status == HTTPStatus.CONFLICT:  # The pod of an earlier try exists, so it was admitted.
            return
        if is_ever_within(str(refusal.body)):
            log.warning("The namespace's quota is exhausted at the moment: %s", creation_error(stage, refusal).message)
            return
        raise creation_error(stage, refusal) from refusal


def _check_placement(pods: dict[str, k8s.V1Pod], settings: Settings, client: ApiClient) -> None:
    if not settings.kubernetes.check_placement:
        return
    try:
        check_placement(pods, client)
    except ApiException as refusal:
        log.warning("Placement was not checked: Airflow may not list the cluster's nodes (%s).", refusal.reason)
