"""A file over HTTP arrives whole however its server answers, or the server is given up."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import httpx
import pytest

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.mirroring.hub_source import MOST_TRIES, stream_url
from airsmith_stages.mirroring.source import CopyStoppedError

CONTENT = bytes(range(200))
Answer = Callable[[int], httpx.Response]
"""What a server answers to a request for the bytes from an offset on."""


class Waits(Event):
    """An event on which nobody waits long.

    :ivar seconds: how long it was asked to.
    """

    def __init__(self, stopped_after: int | None = None) -> None:
        super().__init__()
        self.seconds: list[float | None] = []
        self._stopped_after = stopped_after

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return len(self.seconds) == self._stopped_after


class Server:
    """Gives one answer after the other, the last one for ever.

    :ivar offsets: what was asked for.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.offsets: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        begin = request.headers["Range"]
        assert begin.startswith("bytes=")
        assert begin.endswith("-")
        self.offsets.append(int(begin[6:-1]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(self.offsets[-1])


def download(server: Server, waits: Waits) -> bytes:
    client = httpx.Client(transport=httpx.MockTransport(server))
    return b"".join(stream_url(client, "http://hub/file", len(CONTENT), waits))


def rest(size: int = len(CONTENT)) -> Answer:
    """A part of what was asked for, ended as if it were all."""
    return lambda offset: httpx.Response(206, content=CONTENT[offset : offset + size])


def whole(offset: int) -> httpx.Response:
    return httpx.Response(200, content=CONTENT)


def busy(status: int, **headers: str) -> Answer:
    return lambda offset: httpx.Response(status, headers={name.replace("_", "-"): v for name, v in headers.items()})


def broken(offset: int) -> httpx.Response:
    raise httpx.ReadError("connection reset")


def test_what_is_missing_is_asked_for_and_nothing_twice() -> None:
    server = Server(rest(70), broken, busy(503), rest(60), rest())
    assert download(server, Waits()) == CONTENT
    assert server.offsets == [0, 70, 70, 70, 130]


def test_a_server_that_ignores_ranges_is_understood() -> None:
    server = Server(rest(70), whole)
    assert download(server, Waits()) == CONTENT
    assert server.offsets == [0, 70]


@pytest.mark.parametrize("answer", [rest(0), busy(429), busy(500), broken])
def test_tries_that_bring_nothing_end_and_wait_ever_longer(answer: Answer) -> None:
    server, waits = Server(rest(70), answer), Waits()
    with pytest.raises(AirsmithError) as given_up:
        download(server, waits)
    assert given_up.value.kind is ErrorKind.HUB_UNAVAILABLE
    assert "http://hub/file" in given_up.value.message
    assert server.offsets == [0] + [70] * (MOST_TRIES - 1)
    assert waits.seconds == [1, 2, 4, 8, 16]


def test_progress_begins_the_count_anew() -> None:
    server, waits = Server(broken, broken, broken, rest(1), broken, rest(1), broken, rest()), Waits()
    assert download(server, waits) == CONTENT
    assert waits.seconds == [1, 2, 4, 1, 2, 1, 2]


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("0", 0), ("99999", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)])
def test_the_servers_wish_is_followed_within_reason(asked: str, waited: float) -> None:
    waits = Waits()
    assert download(Server(busy(429, Retry_After=asked), rest()), waits) == CONTENT
    assert waits.seconds == [waited]


def test_whoever_is_stopped_waits_no_more() -> None:
    server = Server(busy(429, Retry_After="60"))
    with pytest.raises(CopyStoppedError):
        download(server, Waits(stopped_after=2))
    assert len(server.offsets) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.ACCESS_DENIED), (403, ErrorKind.ACCESS_DENIED), (404, ErrorKind.NOT_FOUND),
        (418, ErrorKind.HUB_UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_refusal_is_not_asked_again(status: int, kind: ErrorKind) -> None:
    server = Server(busy(status))
    with pytest.raises(AirsmithError) as refused:
        download(server, Waits())
    assert refused.value.kind is kind
    assert len(server.offsets) == 1
