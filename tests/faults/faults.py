"""What can go wrong between a client and S3."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from faults.proxy import Answer, Fault, Line, Request

STALL_SECONDS = 1.3
"""Longer than the read timeout of a store whose deadline is two seconds."""


def _error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    return Answer(status, [("Content-Type", "application/xml")], body.encode())


def status(number: int, code: str) -> Fault:
    """The request is refused, and nothing is done."""

    def refuse(request: Request, line: Line) -> bool:
        answer = _error(number, code)
        line.send(replace(answer, body=b"", headers=[]).raw() if request.method == "HEAD" else answer.raw())
        return True

    return refuse


def reset_before(request: Request, line: Line) -> bool:
    """The connection breaks before the server has seen anything."""
    line.reset()
    return False


def reset_within(request: Request, line: Line) -> bool:
    """The request is done, and the connection breaks within the answer."""
    raw = line.ask(request).raw()
    line.send(raw[: len(raw) // 2])
    line.reset()
    return False


def truncated(request: Request, line: Line) -> bool:
    """The request is done, and the answer ends early, as if that were all."""
    raw = line.ask(request).raw()
    line.send(raw[: len(raw) * 2 // 3])
    line.end()
    return False


def stall(request: Request, line: Line) -> bool:
    """Nothing happens for longer than anybody waits."""
    time.sleep(STALL_SECONDS)
    line.reset()
    return False


def flipped_bit(request: Request, line: Line) -> bool:
    """A bit of the content is another: on its way there, or back."""
    seed = random.Random(request.target)
    if request.method in ("PUT", "POST"):
        line.send(line.ask(replace(request, body=_flip(seed, request.body))).raw())
    else:
        answer = line.ask(request)
        line.send(replace(answer, body=_flip(seed, answer.body)).raw())
    return True


def error_with_200(request: Request, line: Line) -> bool:
    """Status 200, and an error for a body; S3 does so where completing an upload fails late."""
    line.send(replace(_error(500, "InternalError"), status=200).raw())
    return True


def applied_but_500(request: Request, line: Line) -> bool:
    """The request is done, and the answer says that it was not."""
    line.ask(request)
    return status(500, "InternalError")(request, line)


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
