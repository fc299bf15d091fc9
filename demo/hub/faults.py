"""What can go wrong between a client and the Hub, on demand: faults that strike where a request's path fits a glob.

A file's content comes from `/_storage/<sha256>/<name>` if it is LFS, else from `…/resolve/<revision>/<path>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Refuse:
    """Answer the first `times` requests with an error status: too many requests, unless another is given."""

    path: str
    times: int = 1
    status: int = 429
    retry_after_seconds: int | None = 0


@dataclass(frozen=True)
class CutConnection:
    """Close the connection before byte `offset` of the content, the first `times` that it is to be sent."""

    path: str
    times: int = 1
    offset: int = 0


@dataclass(frozen=True)
class WrongByte:
    """Send byte `offset` of the content inverted, the first `times` that it is sent."""

    path: str
    times: int = 1
    offset: int = 0


Fault = Refuse | CutConnection | WrongByte


def with_fault(app: ASGIApp, fault: Fault) -> ASGIApp:
    """`app`, whose answers suffer from `fault` until it is used up."""
    strikes_left = fault.times

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal strikes_left
        if strikes_left == 0 or not fnmatchcase(scope["path"], fault.path):
            await app(scope, receive, send)
        elif isinstance(fault, Refuse):
            strikes_left -= 1
            await _answer_refused(fault)(scope, receive, send)
        else:
            await app(scope, receive, damaging(send, fault))

    def damaging(send: Send, fault: CutConnection | WrongByte) -> Send:
        position, cut = 0, False

        async def damaged(message: Message) -> None:
            nonlocal strikes_left, position, cut
            body = message.get("body", b"")
            if message["type"] == "http.response.start":
                position = _first_byte(message)
            at = fault.offset - position
            position += len(body)
            if strikes_left and 0 <= at < len(body):
                strikes_left -= 1
                cut = isinstance(fault, CutConnection)
                body = body[:at] if cut else body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
                # A body that never ends makes the server close the connection once the application returns.
                await send({**message, "body": body, "more_body": cut or message.get("more_body", False)})
            elif not cut:
                await send(message)

        return damaged

    return faulty


def _answer_refused(fault: Refuse) -> Response:
    wait = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
    return JSONResponse({"error": "This request is refused on purpose."}, fault.status, wait)


def _first_byte(start: Message) -> int:
    """The offset in the file at which the content of an answer begins."""
    _, _, content_range = Headers(raw=start["headers"]).get("content-range", "bytes 0-").partition(" ")
    return int(content_range.partition("-")[0])
