"""An HTTP proxy in front of an S3 server that injects faults into chosen requests or their responses."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OPERATIONS = ("put", "part", "complete", "get", "list", "head")
_HOP_BY_HOP = ("transfer-encoding", "connection", "content-length")


@dataclass(frozen=True)
class Request:
    """A request as received from the client."""

    method: str
    target: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def operation(self) -> str:
        """The S3 operation, if faults are injected into it; otherwise the method."""
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        if self.method == "PUT":
            return "part" if "partNumber" in query else "put"
        if self.method == "POST":
            return "complete" if "uploadId" in query else "begin"
        if self.method == "GET":
            return "list" if "list-type" in query else "get"
        return self.method.lower()


@dataclass(frozen=True)
class Response:
    """A response as received from the server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def to_bytes(self) -> bytes:
        """The response as sent to the client."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name.lower() not in _HOP_BY_HOP]
        length = next((value for name, value in self.headers if name.lower() == "content-length"), None)
        # The Content-Length of a HEAD response is not that of its empty body.
        lines.append(f"Content-Length: {length if length is not None and not self.body else len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Connection:
    """A client's connection to the proxy.

    :param forward: sends a request to the server and returns the response.
    """

    def __init__(self, client: socket.socket, forward: Callable[[Request], Response]) -> None:
        self._client = client
        self.forward = forward

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._client.sendall(data)

    def close_gracefully(self) -> None:
        """Send nothing more (FIN)."""
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection (RST)."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()


Fault = Callable[[Request, Connection], bool]
"""Handles a request; returns whether the connection stays usable."""


@dataclass
class FaultyProxy:
    """Injects a fault into requests of one operation.

    :ivar requests: number of requests so far, by operation.
    :ivar injected: number of faults so far.
    """

    target_port: int
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    injected: int = 0
    _plan: tuple[Fault, str, int, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, fault: Fault, operation: str, *, after: int = 0, times: float) -> None:
        """Reset the counters and inject another fault.

        :param after: number of requests of the operation that pass before the first fault.
        :param times: number of faults; 0 disables the injection.
        """
        with self._lock:
            self.requests, self.injected, self._plan = Counter(), 0, (fault, operation, after, times)

    def _fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests[request.operation] += 1
            if self._plan is None:
                return None
            fault, operation, after, times = self._plan
            if request.operation != operation or self.requests[operation] <= after or self.injected >= times:
                return None
            self.injected += 1
            return fault

    def handle(self, request: Request, connection: Connection) -> bool:
        """Respond to a request; returns whether the connection stays usable."""
        fault = self._fault_for(request)
        if fault is not None:
            return fault(request, connection)
        connection.send(connection.forward(request).to_bytes())
        return True


@contextmanager
def faulty_proxy(target_port: int) -> Iterator[FaultyProxy]:
    """Run a proxy on a loopback port."""
    proxy = FaultyProxy(target_port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.server_connection = http.client.HTTPConnection("127.0.0.1", target_port)

        def finish(self) -> None:
            self.server_connection.close()
            with suppress(OSError):
                super().finish()

        def forward(self, request: Request) -> Response:
            server = self.server_connection
            server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                server.putheader(name, value)
            server.endheaders(request.body or None)
            response = server.getresponse()
            return Response(response.status, response.getheaders(), response.read())

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, http.client.HTTPException):
                self.close_connection = True

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, self.headers, body)
            if not proxy.handle(request, Connection(self.connection, self.forward)):
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
