"""Faults between a client and the Hub, injected into requests whose path matches a glob.

The content of an LFS file is served at `/_storage/<sha256>/<name>`, of other files at `…/resolve/<revision>/<path>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Refuse:
    """Respond to the first `times` requests with an error status, by default 429 (too many requests)."""

    path: str
    times: int = 1
    status: int = 429
    retry_after_seconds: int | None = 0


@dataclass(frozen=True)
class CutConnection:
    """Close the connection before byte `offset` of the content is sent, in the first `times` responses."""

    path: str
    times: int = 1
    offset: int = 0


@dataclass(frozen=True)
class WrongByte:
    """Invert byte `offset` of the content, in the first `times` responses."""

    path: str
    times: int = 1
    offset: int = 0


Fault = Refuse | CutConnection | WrongByte


def with_fault(app: ASGIApp, fault: Fault) -> ASGIApp:
    """Wrap an application so that its first responses have this fault."""
    faults_left = fault.times

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal faults_left
        if faults_left == 0 or not fnmatchcase(scope["path"], fault.path):
            await app(scope, receive, send)
        elif isinstance(fault, Refuse):
            faults_left -= 1
            await _rejection(fault)(scope, receive, send)
        else:
            await app(scope, receive, damaging(send, fault))

    def damaging(send: Send, fault: CutConnection | WrongByte) -> Send:
        position, cut = 0, False

        async def damaged(message: Message) -> None:
            nonlocal faults_left, position, cut
            body = message.get("body", b"")
            if message["type"] == "http.response.start":
                position = _first_byte(message)
            at = fault.offset - position
            position += len(body)
            if faults_left and 0 <= at < len(body):
                faults_left -= 1
                cut = isinstance(fault, CutConnection)
                body = body[:at] if cut else body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
                # If the body is incomplete, the server closes the connection when the application returns.
                await send({**message, "body": body, "more_body": cut or message.get("more_body", False)})
            elif not cut:
                await send(message)

        return damaged

    return faulty


def _rejection(fault: Refuse) -> Response:
    wait = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
    return JSONResponse({"error": "injected by a test"}, fault.status, wait)


def _first_byte(start: Message) -> int:
    """The offset in the file at which the response's content starts."""
    _, _, content_range = Headers(raw=start["headers"]).get("content-range", "bytes 0-").partition(" ")
    return int(content_range.partition("-")[0])
