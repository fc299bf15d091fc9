"""An HTTP proxy before an S3 server that spoils chosen requests, on their way there or back."""

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
    """A request as it came."""

    method: str
    target: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def operation(self) -> str:
        """What S3 calls it, of those that are spoilt; else its method."""
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        if self.method == "PUT":
            return "part" if "partNumber" in query else "put"
        if self.method == "POST":
            return "complete" if "uploadId" in query else "begin"
        if self.method == "GET":
            return "list" if "list-type" in query else "get"
        return self.method.lower()


@dataclass(frozen=True)
class Answer:
    """An answer as the server gave it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def raw(self) -> bytes:
        """What goes over the line."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name.lower() not in _HOP_BY_HOP]
        length = next((value for name, value in self.headers if name.lower() == "content-length"), None)
        # What HEAD tells is another length than that of its empty body.
        lines.append(f"Content-Length: {length if length is not None and not self.body else len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Line:
    """The client's end of a connection, and the server behind it."""

    def __init__(self, connection: socket.socket, ask: Callable[[Request], Answer]) -> None:
        self._connection = connection
        self.ask = ask

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._connection.sendall(data)

    def end(self) -> None:
        """Send nothing more, in good order."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


Fault = Callable[[Request, Line], bool]
"""Deals with a request; returns whether the connection is still good."""


@dataclass
class FaultyProxy:
    """Spoils requests of one operation, after the first few, so many times.

    :ivar requests: all that came, by operation.
    """

    target_port: int
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    struck: int = 0
    _plan: tuple[Fault, str, int, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, fault: Fault, operation: str, skipped: int, times: float) -> None:
        """Begin anew, with a fault.

        :param skipped: requests of the operation that pass before the first that is spoilt.
        """
        with self._lock:
            self.requests, self.struck, self._plan = Counter(), 0, (fault, operation, skipped, times)

    def _fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests[request.operation] += 1
            if self._plan is None:
                return None
            fault, operation, skipped, times = self._plan
            if request.operation != operation or self.requests[operation] <= skipped or self.struck >= times:
                return None
            self.struck += 1
            return fault

    def handle(self, request: Request, line: Line) -> bool:
        """Answer a request; returns whether the connection is still good."""
        fault = self._fault_for(request)
        if fault is not None:
            return fault(request, line)
        line.send(line.ask(request).raw())
        return True


@contextmanager
def faulty_proxy(target_port: int) -> Iterator[FaultyProxy]:
    """A proxy on a loopback port, until the block ends."""
    proxy = FaultyProxy(target_port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.server_side = http.client.HTTPConnection("127.0.0.1", target_port)

        def finish(self) -> None:
            self.server_side.close()
            with suppress(OSError):
                super().finish()

        def ask(self, request: Request) -> Answer:
            server = self.server_side
            server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                server.putheader(name, value)
            server.endheaders(request.body or None)
            answer = server.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, http.client.HTTPException):
                self.close_connection = True

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, self.headers, body)
            if not proxy.handle(request, Line(self.connection, self.ask)):
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
