"""Port forwarding to an endpoint from outside its cluster: a local address that connects to one of its pods."""

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


def is_reachable(endpoint: Endpoint) -> bool:
    """Whether this machine can reach the endpoint's own address."""
    try:
        return httpx.get(f"{endpoint.current.address}/health", timeout=CONNECT_SECONDS).is_success
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def port_forwarded(endpoint: Endpoint, client: ApiClient) -> Iterator[Endpoint]:
    """The endpoint with a local address, which is valid inside the `with` block.

    :raises AirsmithError: `not_found` if none of its pods is ready, `access_denied` if the cluster rejects the port
        forward.
    """
    namespace = endpoint.current.namespace or ""
    pod = _ready_pod(endpoint, namespace, client)
    _connect(pod, namespace, client).close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accept = threading.Thread(target=_accept, args=(listener, pod, namespace, client), daemon=True)
        accept.start()
        host, port = listener.getsockname()
        try:
            yield endpoint.with_current(address=f"http://{host}:{port}")
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accept.join()


def _ready_pod(endpoint: Endpoint, namespace: str, client: ApiClient) -> str:
    for pod in pods_of(endpoint.current.id, namespace, client):
        ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
        if ready and pod.metadata.deletion_timestamp is None:
            return str(pod.metadata.name)
    raise AirsmithError(
        ErrorKind.NOT_FOUND,
        f"Endpoint {endpoint.name} has no ready pod in namespace {namespace}.",
        f"Check `kubectl get pods -n {namespace}`, or deploy again.",
    )


def _accept(listener: socket.socket, pod: str, namespace: str, client: ApiClient) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_forward, args=(connection, pod, namespace, client), daemon=True).start()


def _forward(connection: socket.socket, pod: str, namespace: str, client: ApiClient) -> None:
    """Copy the bytes of one connection in both directions until either side closes it."""
    with connection:
        try:
            tunnel = _connect(pod, namespace, client)
        except AirsmithError as error:
            log.warning("%s", error)
            return
        remote = tunnel.socket(PORT)
        back = threading.Thread(target=_copy, args=(remote, connection), daemon=True)
        back.start()
        _copy(connection, remote)
        back.join()
        tunnel.close()


def _connect(pod: str, namespace: str, client: ApiClient) -> Any:
    """Open one connection to a pod.

    :raises AirsmithError: `access_denied` with the API server's message.
    """
    # A separate client: `portforward` replaces the client's request method while it connects.
    core = CoreV1Api(ApiClient(client.configuration))
    try:
        return portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(PORT))
    except (ApiException, AttributeError) as failed:
        # For a rejection without a body, the client raises AttributeError while it handles the ApiException.
        rejection = failed if isinstance(failed, ApiException) else failed.__context__
        message = re.search(r'"message":("(?:[^"\\]|\\.)*")', str(rejection))
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster rejects a port forward to pod {pod}: {json.loads(message[1]) if message else rejection}.",
            "Grant the permissions to list pods and to get and create pods/portforward.",
        ) from failed


def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
