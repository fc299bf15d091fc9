"""All checks of a run, told together: pods admitted, queue there, a node for each pod, store and Hub at hand."""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.labels import TaskOwner
from airsmith.cluster.pod_failures import not_created
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.cache import stages_to_run
from airsmith.contracts.run import Run
from airsmith.errors.checks import check_all
from airsmith.preflight.job_kind import refuse_missing_engine
from airsmith.preflight.placement import refuse_unplaceable
from airsmith.preflight.probe import probe_pod, run_probe
from airsmith.preflight.queue import refuse_missing_queue
from airsmith.preflight.quota import is_ever_within
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def preflight(run: Run, settings: Settings, client: ApiClient, owner: TaskOwner | None = None) -> None:
    """Find out what would stop the run's pods. Nothing is asked where every stage has its output already.

    :param owner: marks the pod that looks at store and Hub, so that the janitor knows whose it is.
    :raises AirsmithError: everything that is wrong, each with its remedy.
    """
    spec = run.read_spec()
    stages = stages_to_run(run, spec)
    if not stages:
        log.info("Every stage has its output already: no pod will start.")
        return
    log.info("Pods will start for %s.", ", ".join(stages))
    probe = probe_pod(run, spec, settings)
    if owner is not None:
        probe.metadata.annotations.update(owner.annotations())
    refuse_unadmitted("preflight", probe, client)  # Where this fails, nothing else could say more.
    pods = {stage: stage_pod(stage, run, spec, "", settings) for stage in stages}
    check_all(
        [
            *(partial(refuse_unadmitted, stage, pod, client) for stage, pod in pods.items()),
            partial(refuse_missing_queue, spec.recipe.backend, settings.kubernetes.namespace, client),
            partial(refuse_missing_engine, spec.recipe.backend, client),
            partial(_refuse_unplaceable, pods, settings, client),
            partial(run_probe, probe, settings, client),
        ]
    )
    log.info("Nothing stands in the way of this run.")


def refuse_unadmitted(stage: str, pod: k8s.V1Pod, client: ApiClient) -> None:
    """Let the API server check a pod with all its admission, and create none.

    A quota that is only used up for now is no failure: the stage waits for it when its time has come.

    :raises AirsmithError: why the server would take no such pod.
    """
    try:
        CoreV1Api(client).create_namespaced_pod(pod.metadata.namespace, pod, dry_run="All")
    except ApiException as refusal:
        if refusal.status == HTTPStatus.CONFLICT:  # An earlier try's pod of this run is there, and was admitted.
            return
        if is_ever_within(str(refusal.body)):
            log.warning("The namespace's quota is used up at the moment: %s", not_created(stage, refusal).message)
            return
        raise not_created(stage, refusal) from refusal


def _refuse_unplaceable(pods: dict[str, k8s.V1Pod], settings: Settings, client: ApiClient) -> None:
    if not settings.kubernetes.check_placement:
        return
    try:
        refuse_unplaceable(pods, client)
    except ApiException as refusal:
        log.warning("Whether nodes fit was not checked: the cluster does not show them (%s).", refusal.reason)
