"""Deploy to a cluster: a new Deployment beside the old one, and the Service turned to it once it answers."""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import Any

from kubernetes.client import ApiClient, AppsV1Api, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from airsmith.artifacts.layout import endpoint_path
from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.registry import Deployment, Endpoint, read_endpoint, swap_endpoint
from airsmith.runtimes.pod_failures import failure_of, waiting_reason
from airsmith.runtimes.pod_labels import PREFIX, object_name
from airsmith.serving.chat import curl_line
from airsmith.serving.local import served_model
from airsmith.serving.manifests import START_SECONDS, Manifest, ServedModel, address, deployment, service
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

FIELD_MANAGER = "airsmith"
POLL_SECONDS = 1.0
RESTARTS_TOLERATED = 2
_LOG_LINES = 30
_MISSING = 404


def deploy(run: Run, settings: Settings, client: ApiClient) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; what serves it already goes on.

    :param client: of the cluster.
    :raises AirsmithError: where the server does not come up; the endpoint then answers as before.
    """
    with recorded_stage("deploy", run) as record:
        recipe = run.read_spec().recipe
        merged = served_model(run)
        artifact = merged.folder
        current = read_endpoint(run.store, recipe.endpoint_name)
        if current is not None and current.model_uri == artifact and is_available(current, client):
            log.info("Endpoint %s serves this model already, at %s", current.name, current.address)
            return record.finish(_output(current), cached=True)
        registered = run.pointer("register")
        model = ServedModel(
            endpoint=recipe.endpoint_name,
            deployment=str(uuid.uuid4()),
            artifact=artifact,
            dtype=_dtype(json.loads(merged.read("config.json"))),
            version=int(registered.properties["version"]) if registered is not None else None,
            recipe=recipe,
        )
        endpoint = _replace(run, model, settings, client)
        log.info("Endpoint %s is up. Try it:\n%s", endpoint.name, curl_line(endpoint))
        return record.finish(_output(endpoint), cached=False)


def is_available(endpoint: Deployment, client: ApiClient) -> bool:
    """Whether a cluster runs this deployment, and it answers."""
    if endpoint.namespace is None:
        return False
    found = _find(endpoint.model_name, endpoint.deployment, endpoint.namespace, client)
    return found is not None and bool(found.status.available_replicas)


def stop(endpoint: Deployment, client: ApiClient) -> bool:
    """End a deployment.

    :returns: whether it was there.
    """
    if endpoint.namespace is None:
        return False
    return _delete(object_name(endpoint.model_name[:40], endpoint.deployment[:8]), endpoint.namespace, client)


def _replace(run: Run, model: ServedModel, settings: Settings, client: ApiClient) -> Endpoint:
    namespace = settings.kubernetes.namespace
    before = read_endpoint(run.store, model.endpoint)
    apply(deployment(model, settings), client)
    try:
        _wait_until_available(model, namespace, client)
        apply(service(model.endpoint, model.deployment, settings), client)
        endpoint = swap_endpoint(
            run.store,
            model.endpoint,
            Deployment(
                engine="vllm",
                address=address(model.endpoint, namespace),
                model_name=model.endpoint,
                version=model.version,
                model_uri=model.artifact,
                deployment=model.deployment,
                namespace=namespace,
            ),
        )
    except BaseException:
        _delete(model.object_name, namespace, client)
        raise
    if before is not None:
        stop(before, client)
    return endpoint


def apply(manifest: Manifest, client: ApiClient) -> None:
    """Make an object be as described: a server-side apply, which leaves what others manage in it alone.

    :raises AirsmithError: `access_denied` or `bad_recipe`, in the API server's words.
    """
    dynamic = DynamicClient(client)
    kind = dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
    metadata = manifest["metadata"]
    try:
        kind.server_side_apply(
            body=manifest,
            name=metadata["name"],
            namespace=metadata["namespace"],
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )
    except ApiException as refusal:
        what = f"{manifest['kind']} {metadata['name']}"
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED if refusal.status in (401, 403, 404) else ErrorKind.BAD_RECIPE,
            f"The cluster refuses {what}: {refusal.body or refusal.reason}",
            "See that kubernetes.namespace exists and what Airflow's service account may do in it.",
        ) from refusal


def _wait_until_available(model: ServedModel, namespace: str, client: ApiClient) -> None:
    deadline = time.monotonic() + START_SECONDS
    said = ""
    while True:
        found = _find(model.endpoint, model.deployment, namespace, client)
        if found is not None and found.status.available_replicas:
            return
        pods = _pods(model, namespace, client)
        for pod in pods:
            _raise_if_hopeless(pod, client)
        now = _progress(pods)
        if now != said:
            log.info("Waiting for %s: %s", model.object_name, now)
            said = now
        if time.monotonic() > deadline:
            raise (
                failure_of("deploy", pods[0])
                if pods
                else AirsmithError(
                    ErrorKind.UNSCHEDULABLE,
                    f"No pod of {model.object_name} appeared in {START_SECONDS} s.",
                    f"See `kubectl describe deployment {model.object_name} -n {namespace}`.",
                )
            )
        time.sleep(POLL_SECONDS)


def _raise_if_hopeless(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Give up on a pod whose image cannot be pulled, or whose container ends again and again.

    :raises AirsmithError: with the pod's own reason; the end of its log is in ours.
    """
    waiting = waiting_reason(pod)
    if waiting is not None:
        raise failure_of("deploy", pod)
    statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
    for status in statuses:
        ended = status.last_state.terminated if status.last_state else None
        if ended is None or status.restart_count < RESTARTS_TOLERATED:
            continue
        log.error(
            "The last lines of %s in %s:\n%s", status.name, pod.metadata.name, _log_tail(pod, status.name, client)
        )
        told = AirsmithError.from_json_line((ended.message or "").strip().rpartition("\n")[2])
        raise told or AirsmithError(
            ErrorKind.OUT_OF_MEMORY if ended.reason == "OOMKilled" else ErrorKind.INTERNAL,
            f"Container {status.name} of {pod.metadata.name} ended {status.restart_count} times, "
            f"last with exit code {ended.exit_code} ({ended.reason}).",
            "See the last lines of its log above.",
        )


def _progress(pods: list[k8s.V1Pod]) -> str:
    """Where the pods are on their way, in words."""
    words = []
    for pod in pods:
        running = [
            status.name
            for status in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
            if status.state and status.state.running
        ]
        words.append(f"{pod.status.phase}{f' ({running[-1]})' if running else ''}")
    return ", ".join(words) or "no pod yet"


def _log_tail(pod: k8s.V1Pod, container: str, client: ApiClient) -> str:
    try:
        return str(
            CoreV1Api(client).read_namespaced_pod_log(
                pod.metadata.name, pod.metadata.namespace, container=container, previous=True, tail_lines=_LOG_LINES
            )
        )
    except ApiException as refusal:
        return f"(not to be had: {refusal.reason})"


def _pods(model: ServedModel, namespace: str, client: ApiClient) -> list[k8s.V1Pod]:
    selector = f"{PREFIX}deployment={model.deployment}"
    return list(CoreV1Api(client).list_namespaced_pod(namespace, label_selector=selector).items)


def _find(endpoint: str, deployment_id: str, namespace: str, client: ApiClient) -> Any:
    try:
        name = object_name(endpoint[:40], deployment_id[:8])
        return AppsV1Api(client).read_namespaced_deployment(name, namespace)
    except ApiException as refusal:
        if refusal.status == _MISSING:
            return None
        raise


def _delete(name: str, namespace: str, client: ApiClient) -> bool:
    try:
        AppsV1Api(client).delete_namespaced_deployment(name, namespace)
    except ApiException as refusal:
        if refusal.status == _MISSING:
            return False
        raise
    return True


def _dtype(config: dict[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")


def _output(endpoint: Endpoint) -> Output:
    properties = {"address": endpoint.address, "model_name": endpoint.model_name}
    return Output(ArtifactType.ENDPOINT, endpoint.deployment, endpoint_path(endpoint.name), True, properties)
