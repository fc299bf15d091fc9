"""An S3 server's answers, spoilt: what a test sets as the server's `fault`."""

from __future__ import annotations

from collections.abc import Callable

from werkzeug.wrappers import Request, Response

Answer = Callable[[], Response]


def error_answer(status: int, code: str) -> Response:
    return Response(f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>", status)


class Faults:
    """Spoils the first answers to requests of one kind, and remembers all requests.

    :param wanted: which requests.
    :param spoil: makes the answer from the way to the real one.
    :param times: how many are spoilt.
    """

    def __init__(
        self, wanted: Callable[[Request], bool], spoil: Callable[[Answer], Response], times: int = 10**9
    ) -> None:
        self.wanted, self.spoil, self.times = wanted, spoil, times
        self.requests: list[str] = []

    def __call__(self, request: Request, real: Answer) -> Response:
        self.requests.append(f"{request.method} {request.full_path}")
        if self.wanted(request) and self.times > 0:
            self.times -= 1
            return self.spoil(real)
        return real()


def watch_requests() -> Faults:
    return Faults(lambda request: False, lambda real: real())


def every_request(request: Request) -> bool:
    return True


def conditional_put(request: Request) -> bool:
    return request.method == "PUT" and ("If-None-Match" in request.headers or "If-Match" in request.headers)


def applied_but_500(real: Answer) -> Response:
    real()
    return error_answer(500, "InternalError")


def swallow_parts(request: Request, real: Answer) -> Response:
    """Answer a multipart upload like S3, and keep nothing."""
    if "uploads" in request.args:
        return Response("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
    if request.method == "POST":
        return Response('<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>')
    return Response(headers={"ETag": '"e"'})
