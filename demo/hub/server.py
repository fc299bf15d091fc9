"""Run the local Hub, on a loopback address by default, in a thread for tests or in its own process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from demo.hub.api import build_app
from demo.hub.faults import Fault, with_fault

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Hub:
    """A running local Hub: its address, and the requests so far as `METHOD path`."""

    url: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve(root: Path, *faults: Fault, host: str = HOST) -> Iterator[Hub]:
    """Serve the repositories under `root` in a thread while the block runs.

    :param host: address to listen on; pods require one that they can reach.
    """
    listener, storage = listen(host=host), listen(host=host)
    hub = Hub(address_of(listener))
    app = reduce(with_fault, faults, build_app(root, port_of(storage)))
    server = build_server(_record_requests(app, hub.requests))
    thread = threading.Thread(target=server.run, args=([listener, storage],), name="local-hub", daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()


def build_server(app: ASGIApp) -> uvicorn.Server:
    """A server that logs only critical errors and stops within 5 s."""
    return uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=5))


def listen(port: int = 0, host: str = HOST) -> socket.socket:
    """A listening socket, so that clients can connect before the server has started.

    :param port: 0 for any free port.
    :raises OSError: the port is in use.
    """
    return socket.create_server((host, port))


def address_of(listener: socket.socket) -> str:
    """The value for `HF_ENDPOINT`."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def port_of(listener: socket.socket) -> int:
    """The port of a listening socket."""
    port: int = listener.getsockname()[1]
    return port


def _record_requests(app: ASGIApp, requests: list[str]) -> ASGIApp:
    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        requests.append(f"{scope['method']} {scope['path']}")
        await app(scope, receive, send)

    return recorded
