"""A file over HTTP arrives whole however its server answers, or the server is given up."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from threading import Event

import httpx
import pytest

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.mirroring import http_file
from airsmith_stages.mirroring.http_file import MAX_ATTEMPTS, MAX_PAUSE_SECONDS, RANGE_BYTES, HttpFile
from airsmith_stages.mirroring.limiter import RequestLimiter
from airsmith_stages.mirroring.source_file import CopyStoppedError

CONTENT = bytes(range(200))
URL = "http://hub/file"
Answer = Callable[[int, int], httpx.Response]
"""What a server answers to a request for the bytes from an offset up to another."""


class Clock:
    """Seconds that pass where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Waits(Event):
    """An event on which nobody waits long.

    :ivar seconds: how long it was asked to.
    """

    def __init__(self, clock: Clock, stopped_after: int | None = None) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._clock = clock
        self._stopped_after = stopped_after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        self._clock.now += timeout
        return len(self.seconds) == self._stopped_after


class Server:
    """Gives one answer after the other, the last one for ever.

    :ivar asked: the ranges.
    :ivar requests: all that came.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert found is not None
        self.requests.append(request)
        self.asked.append((int(found[1]), int(found[2]) + 1))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(*self.asked[-1])

    @property
    def offsets(self) -> list[int]:
        return [start for start, _ in self.asked]


class Download:
    """One download of `CONTENT` by a client whose time is not the world's."""

    def __init__(self, *answers: Answer, stopped_after: int | None = None, **options: str) -> None:
        self.server = Server(*answers)
        self.clock = Clock()
        self.limiter = RequestLimiter(clock=self.clock)
        self.waits = Waits(self.clock, stopped_after)
        client = httpx.Client(transport=httpx.MockTransport(self.server))
        self.file = HttpFile(client, URL, len(CONTENT), self.limiter, options)

    def __call__(self) -> bytes:
        with ThreadPoolExecutor(1) as pool:
            return b"".join(self.file.stream(pool, self.waits))


def part(size: int = len(CONTENT)) -> Answer:
    """What was asked for, or only the first bytes of it, result as if it were all."""
    return lambda start, end: httpx.Response(206, content=CONTENT[start : min(end, start + size)])


def whole(start: int, end: int) -> httpx.Response:
    return httpx.Response(200, content=CONTENT)


def busy(status: int, **headers: str) -> Answer:
    return lambda *_: httpx.Response(status, headers={name.replace("_", "-"): v for name, v in headers.items()})


def broken(start: int, end: int) -> httpx.Response:
    raise httpx.ReadError("connection reset")


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(http_file, "RANGE_BYTES", 30)
    return 30


def test_what_is_missing_is_asked_for_and_nothing_twice() -> None:
    download = Download(part(70), broken, busy(503), part(60), part())
    assert download() == CONTENT
    assert download.server.offsets == [0, 70, 70, 70, 130]


def test_ranges_are_asked_for_one_by_one_and_come_in_order(small_ranges: int) -> None:
    download = Download(part())
    assert download() == CONTENT
    assert download.server.asked == [(start, min(start + 30, 200)) for start in range(0, 200, 30)]


def test_only_the_range_that_broke_is_asked_for_again(small_ranges: int) -> None:
    download = Download(part(), part(10), part())
    assert download() == CONTENT
    assert download.server.asked[:4] == [(0, 30), (30, 60), (40, 60), (60, 90)]


def test_a_server_that_ignores_ranges_is_understood(small_ranges: int) -> None:
    download = Download(whole)
    assert download() == CONTENT


def test_a_server_that_sends_more_than_was_asked_for_is_cut_short(small_ranges: int) -> None:
    download = Download(lambda start, end: httpx.Response(206, content=CONTENT[start:]))
    assert download() == CONTENT


@pytest.mark.parametrize("answer", [part(0), busy(429), busy(500), broken])
def test_tries_that_bring_nothing_end_and_wait_ever_longer(answer: Answer) -> None:
    download = Download(part(70), answer)
    with pytest.raises(AirsmithError) as given_up:
        download()
    assert given_up.value.kind is ErrorKind.HUB_UNAVAILABLE
    assert URL in given_up.value.message
    assert download.server.offsets == [0] + [70] * (MAX_ATTEMPTS - 1)
    assert download.waits.seconds == [1, 2, 4, 8, 16]


def test_progress_begins_the_count_anew() -> None:
    download = Download(broken, broken, broken, part(1), broken, part(1), broken, part())
    assert download() == CONTENT
    assert download.waits.seconds == [1, 2, 4, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "0"}, None),
        ({"Retry_After": "99999"}, MAX_PAUSE_SECONDS),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry_After": "soon"}, 1),
        ({"RateLimit": '"resolvers";r=0;t=55', "Retry_After": "3"}, 56),
        ({"RateLimit": '"resolvers";r=9;t=55'}, 1),
    ],
    ids=str,
)
def test_the_servers_wish_is_followed_within_reason(headers: dict[str, str], waited: float | None) -> None:
    download = Download(busy(429, **headers), part())
    assert download() == CONTENT
    assert download.waits.seconds == ([] if waited is None else [waited])


def test_a_date_to_come_back_at_is_understood() -> None:
    at = datetime.now(timezone.utc) + timedelta(seconds=200)
    download = Download(busy(429, Retry_After=format_datetime(at, usegmt=True)), part())
    assert download() == CONTENT
    assert download.waits.seconds == [pytest.approx(200, abs=100)]


def test_all_files_wait_when_the_server_says_so_to_one() -> None:
    download = Download(part())
    download.limiter.throttled(download.limiter.start(), 50)
    assert download() == CONTENT
    assert download.waits.seconds == [50]


def test_whoever_is_stopped_waits_no_more() -> None:
    download = Download(busy(429, Retry_After="60"), stopped_after=2)
    with pytest.raises(CopyStoppedError):
        download()
    assert len(download.server.offsets) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.ACCESS_DENIED), (403, ErrorKind.ACCESS_DENIED), (404, ErrorKind.NOT_FOUND),
        (418, ErrorKind.HUB_UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_refusal_is_not_asked_again(status: int, kind: ErrorKind) -> None:
    download = Download(busy(status))
    with pytest.raises(AirsmithError) as refused:
        download()
    assert refused.value.kind is kind
    assert len(download.server.offsets) == 1


class TestRedirect:
    """Where the content lies elsewhere."""

    def redirected(self, *answers: Answer) -> tuple[Download, list[str]]:
        """A download whose URL redirects; the addresses of the content are numbered."""
        download, addresses = Download(*answers, Authorization="Bearer secret"), []
        content = download.server

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url == URL:
                assert request.headers["Authorization"] == "Bearer secret"
                addresses.append(f"http://cdn/{len(addresses)}?signature=x")
                return httpx.Response(302, headers={"Location": addresses[-1]})
            return content(request)

        download.file.client = httpx.Client(transport=httpx.MockTransport(answer))
        return download, addresses

    def test_it_is_asked_for_the_address_once_and_no_one_else_sees_the_token(self, small_ranges: int) -> None:
        download, addresses = self.redirected(part())
        assert download() == CONTENT
        assert len(addresses) == 1
        assert [str(request.url) for request in download.server.requests] == addresses * 7
        assert not any("Authorization" in request.headers for request in download.server.requests)

    def test_an_expired_address_is_asked_for_anew(self, small_ranges: int) -> None:
        download, addresses = self.redirected(part(), part(), busy(403), part())
        assert download() == CONTENT
        assert len(addresses) == 2
        assert download.waits.seconds == []

    def test_one_that_is_refused_at_once_is_no_expired_one(self) -> None:
        download, addresses = self.redirected(busy(403))
        with pytest.raises(AirsmithError) as refused:
            download()
        assert refused.value.kind is ErrorKind.ACCESS_DENIED
        assert len(addresses) == 1


def test_no_more_is_in_memory_than_the_pace_has_slots() -> None:
    """Files of which nobody reads on take their slots and no more."""
    size, limiter = 40 * RANGE_BYTES, RequestLimiter(4)
    answers = httpx.MockTransport(lambda request: httpx.Response(206, content=bytes(RANGE_BYTES)))
    stop = Event()
    with ThreadPoolExecutor(4) as pool:
        streams = [HttpFile(httpx.Client(transport=answers), URL, size, limiter).stream(pool, stop) for _ in range(2)]
        next(streams[0])
        assert not limiter.acquire(wait=False)
        streams[0].close()
        next(streams[1])
        streams[1].close()
    assert all(limiter.acquire(wait=False) for _ in range(4))


def test_files_that_share_few_slots_all_arrive(small_ranges: int) -> None:
    limiter = RequestLimiter(3)
    client = httpx.Client(transport=httpx.MockTransport(Server(part())))
    with ThreadPoolExecutor(3) as requests, ThreadPoolExecutor(5) as readers:
        files = [HttpFile(client, f"{URL}/{index}", len(CONTENT), limiter) for index in range(20)]
        copies = [readers.submit(lambda file=file: b"".join(file.stream(requests, Event()))) for file in files]
        assert [copy.result(timeout=60) for copy in copies] == [CONTENT] * 20
