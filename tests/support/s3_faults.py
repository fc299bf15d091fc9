"""Faults of an S3 server, for `S3Server.fault`."""

from __future__ import annotations

from collections.abc import Callable

from werkzeug.wrappers import Request, Response

Respond = Callable[[], Response]
"""Returns the real response."""


def error_response(status: int, code: str) -> Response:
    return Response(f"<Error><Code>{code}</Code><Message>injected by the test</Message></Error>", status)


class Faults:
    """Replaces the first responses to matching requests, and records all requests.

    :param matches: selects requests.
    :param replace: makes the response; it may call for the real one.
    :param times: how many responses are replaced.
    """

    def __init__(
        self, matches: Callable[[Request], bool], replace: Callable[[Respond], Response], times: int = 10**9
    ) -> None:
        self.matches, self.replace, self.times = matches, replace, times
        self.requests: list[str] = []

    def __call__(self, request: Request, real: Respond) -> Response:
        self.requests.append(f"{request.method} {request.full_path}")
        if self.matches(request) and self.times > 0:
            self.times -= 1
            return self.replace(real)
        return real()


def record_requests() -> Faults:
    """Replace nothing."""
    return Faults(lambda request: False, lambda real: real())


def any_request(request: Request) -> bool:
    return True


def is_conditional_put(request: Request) -> bool:
    return request.method == "PUT" and ("If-None-Match" in request.headers or "If-Match" in request.headers)


def apply_and_return_500(real: Respond) -> Response:
    real()
    return error_response(500, "InternalError")


def discard_parts(request: Request, real: Respond) -> Response:
    """Respond to a multipart upload as S3 does, and store nothing."""
    if "uploads" in request.args:
        return Response("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
    if request.method == "POST":
        return Response('<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>')
    return Response(headers={"ETag": '"e"'})
