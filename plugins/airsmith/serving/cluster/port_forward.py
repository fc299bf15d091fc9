"""A way to an endpoint from outside of its cluster: a local address whose connections end in one of its pods."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from airsmith.cluster.access import pods_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint
from airsmith.serving.cluster.containers import PORT

log = logging.getLogger("airsmith")

CONNECT_SECONDS = 2.0
_CHUNK_BYTES = 64 * 1024


def answers_here(endpoint: Endpoint) -> bool:
    """Whether the endpoint's own address leads to it from this machine."""
    try:
        return httpx.get(f"{endpoint.address}/health", timeout=CONNECT_SECONDS).is_success
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def forwarded(endpoint: Endpoint, client: ApiClient) -> Iterator[Endpoint]:
    """The endpoint under a local address, as long as the block lasts.

    :raises AirsmithError: `not_found` where none of its pods answers, `access_denied` where the cluster opens no way.
    """
    namespace = endpoint.namespace or ""
    pod = _ready_pod(endpoint, namespace, client)
    _connect(pod, namespace, client).close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accept = threading.Thread(target=_accept, args=(listener, pod, namespace, client), daemon=True)
        accept.start()
        host, port = listener.getsockname()
        try:
            yield endpoint.model_copy(update={"address": f"http://{host}:{port}"})
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accept.join()


def _ready_pod(endpoint: Endpoint, namespace: str, client: ApiClient) -> str:
    for pod in pods_of(endpoint.deployment, namespace, client):
        ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
        if ready and pod.metadata.deletion_timestamp is None:
            return str(pod.metadata.name)
    raise AirsmithError(
        ErrorKind.NOT_FOUND,
        f"No pod of endpoint {endpoint.name} answers in namespace {namespace}.",
        f"See `kubectl get pods -n {namespace}`, or run the recipe's deploy again.",
    )


def _accept(listener: socket.socket, pod: str, namespace: str, client: ApiClient) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_carry, args=(connection, pod, namespace, client), daemon=True).start()


def _carry(connection: socket.socket, pod: str, namespace: str, client: ApiClient) -> None:
    """Pass the bytes of one connection in both directions until either side ends it."""
    with connection:
        try:
            forward = _connect(pod, namespace, client)
        except AirsmithError as refused:
            log.warning("%s", refused)
            return
        remote = forward.socket(PORT)
        back = threading.Thread(target=_copy, args=(remote, connection), daemon=True)
        back.start()
        _copy(connection, remote)
        back.join()
        forward.close()


def _connect(pod: str, namespace: str, client: ApiClient) -> Any:
    """One connection to a pod.

    :raises AirsmithError: `access_denied`, in the API server's words.
    """
    # A client of its own: while it connects, `portforward` puts itself in the place of the client's requests.
    core = CoreV1Api(ApiClient(client.configuration))
    try:
        return portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(PORT))
    except (ApiException, AttributeError) as failed:
        # The library stumbles over a refusal without a body: the refusal is what it was handling.
        refusal = failed if isinstance(failed, ApiException) else failed.__context__
        said = re.search(r'"message":("(?:[^"\\]|\\.)*")', str(refusal))
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster opens no way to pod {pod}: {json.loads(said[1]) if said else refusal}.",
            "To chat from outside takes the rights to list pods, and to get and create pods/portforward.",
        ) from failed


def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
