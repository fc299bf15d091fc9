"""Faults between a client and S3, for `FaultyProxy`."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from tests.support.faulty_proxy import Connection, Fault, Request, Response

STALL_SECONDS = 1.3
"""Longer than the read timeout of a store with a deadline of 2 s."""


def _error(status: int, code: str) -> Response:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected by a test</Message></Error>"
    return Response(status, [("Content-Type", "application/xml")], body.encode())


def status(number: int, code: str) -> Fault:
    """The server rejects the request and does nothing."""

    def reject(request: Request, connection: Connection) -> bool:
        response = _error(number, code)
        if request.method == "HEAD":
            response = replace(response, body=b"", headers=[])
        connection.send(response.to_bytes())
        return True

    return reject


def reset_before(request: Request, connection: Connection) -> bool:
    """The connection is reset before the server receives the request."""
    connection.reset()
    return False


def reset_within(request: Request, connection: Connection) -> bool:
    """The server applies the request; the connection is reset within the response."""
    raw = connection.forward(request).to_bytes()
    connection.send(raw[: len(raw) // 2])
    connection.reset()
    return False


def truncated(request: Request, connection: Connection) -> bool:
    """The server applies the request; the connection closes gracefully within the response."""
    raw = connection.forward(request).to_bytes()
    connection.send(raw[: len(raw) * 2 // 3])
    connection.close_gracefully()
    return False


def stall(request: Request, connection: Connection) -> bool:
    """No response arrives within any timeout."""
    time.sleep(STALL_SECONDS)
    connection.reset()
    return False


def flipped_bit(request: Request, connection: Connection) -> bool:
    """One bit of the request's or the response's body is inverted."""
    seed = random.Random(request.target)
    if request.method in ("PUT", "POST"):
        connection.send(connection.forward(replace(request, body=_flip(seed, request.body))).to_bytes())
    else:
        response = connection.forward(request)
        connection.send(replace(response, body=_flip(seed, response.body)).to_bytes())
    return True


def error_with_200(request: Request, connection: Connection) -> bool:
    """Status 200 with an error as the body, as S3 responds if completing an upload fails late."""
    connection.send(replace(_error(500, "InternalError"), status=200).to_bytes())
    return True


def applied_but_500(request: Request, connection: Connection) -> bool:
    """The server applies the request, but the response reports an error."""
    connection.forward(request)
    return status(500, "InternalError")(request, connection)


def _flip(seed: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    flipped = bytearray(content)
    flipped[seed.randrange(len(content))] ^= 1 << seed.randrange(8)
    return bytes(flipped)


FAULTS: dict[str, Fault] = {
    "500": status(500, "InternalError"),
    "503": status(503, "SlowDown"),
    "429": status(429, "TooManyRequests"),
    "409": status(409, "OperationAborted"),
    "504": status(504, "GatewayTimeout"),
    "reset before": reset_before,
    "reset within": reset_within,
    "truncated": truncated,
    "stall": stall,
    "flipped bit": flipped_bit,
    "200 with an error": error_with_200,
    "applied but 500": applied_but_500,
}
