"""A download over HTTP completes despite faults of the server, or fails after a limited number of attempts."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from threading import Event

import httpx
import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.mirroring import http_file
from airsmith_stages.mirroring.http_file import MAX_ATTEMPTS, MAX_PAUSE_SECONDS, RANGE_BYTES, HttpFile
from airsmith_stages.mirroring.limiter import RequestLimiter
from airsmith_stages.mirroring.source_file import CopyStoppedError

CONTENT = bytes(range(200))
URL = "http://hub/file"
Response = Callable[[int, int], httpx.Response]
"""Responds to a request for the bytes from one offset up to another."""


class Clock:
    """A clock that only pauses advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class RecordedWaits(Event):
    """An event whose `wait` returns at once and advances the clock.

    :ivar seconds: the requested durations.
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


class FakeServer:
    """Gives each response once, and the last one forever.

    :ivar ranges: the requested ranges.
    """

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.ranges: list[tuple[int, int]] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert found is not None
        self.requests.append(request)
        self.ranges.append((int(found[1]), int(found[2]) + 1))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(*self.ranges[-1])

    @property
    def offsets(self) -> list[int]:
        return [start for start, _ in self.ranges]


class Download:
    """A download of `CONTENT` with a fake clock."""

    def __init__(self, *answers: Response, stopped_after: int | None = None, **options: str) -> None:
        self.server = FakeServer(*answers)
        self.clock = Clock()
        self.limiter = RequestLimiter(clock=self.clock)
        self.pauses = RecordedWaits(self.clock, stopped_after)
        client = httpx.Client(transport=httpx.MockTransport(self.server))
        self.file = HttpFile(client, URL, len(CONTENT), self.limiter, options)

    def __call__(self) -> bytes:
        with ThreadPoolExecutor(1) as pool:
            return b"".join(self.file.stream(pool, self.pauses))


def partial(size: int = len(CONTENT)) -> Response:
    """Respond with the range, or with only its first bytes as if they were all."""
    return lambda start, end: httpx.Response(206, content=CONTENT[start : min(end, start + size)])


def full_content(start: int, end: int) -> httpx.Response:
    return httpx.Response(200, content=CONTENT)


def status_response(status: int, **headers: str) -> Response:
    return lambda *_: httpx.Response(status, headers={name.replace("_", "-"): v for name, v in headers.items()})


def broken_connection(start: int, end: int) -> httpx.Response:
    raise httpx.ReadError("connection reset")


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(http_file, "RANGE_BYTES", 30)
    return 30


def test_only_missing_bytes_are_requested_again() -> None:
    download = Download(partial(70), broken_connection, status_response(503), partial(60), partial())
    assert download() == CONTENT
    assert download.server.offsets == [0, 70, 70, 70, 130]


def test_ranges_are_requested_separately_and_delivered_in_order(small_ranges: int) -> None:
    download = Download(partial())
    assert download() == CONTENT
    assert download.server.ranges == [(start, min(start + 30, 200)) for start in range(0, 200, 30)]


def test_only_the_rest_of_a_broken_range_is_requested_again(small_ranges: int) -> None:
    download = Download(partial(), partial(10), partial())
    assert download() == CONTENT
    assert download.server.ranges[:4] == [(0, 30), (30, 60), (40, 60), (60, 90)]


def test_a_server_that_ignores_ranges_is_supported(small_ranges: int) -> None:
    download = Download(full_content)
    assert download() == CONTENT


def test_bytes_beyond_the_requested_range_are_ignored(small_ranges: int) -> None:
    download = Download(lambda start, end: httpx.Response(206, content=CONTENT[start:]))
    assert download() == CONTENT


@pytest.mark.parametrize("answer", [partial(0), status_response(429), status_response(500), broken_connection])
def test_attempts_without_progress_back_off_and_are_limited(answer: Response) -> None:
    download = Download(partial(70), answer)
    with pytest.raises(AirsmithError) as given_up:
        download()
    assert given_up.value.kind is ErrorKind.HUB_UNAVAILABLE
    assert URL in given_up.value.message
    assert download.server.offsets == [0] + [70] * (MAX_ATTEMPTS - 1)
    assert download.pauses.seconds == [1, 2, 4, 8, 16]


def test_progress_resets_the_number_of_attempts() -> None:
    download = Download(
        broken_connection,
        broken_connection,
        broken_connection,
        partial(1),
        broken_connection,
        partial(1),
        broken_connection,
        partial(),
    )
    assert download() == CONTENT
    assert download.pauses.seconds == [1, 2, 4, 1, 2, 1, 2]


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
def test_the_pause_that_a_server_requests_is_limited(headers: dict[str, str], waited: float | None) -> None:
    download = Download(status_response(429, **headers), partial())
    assert download() == CONTENT
    assert download.pauses.seconds == ([] if waited is None else [waited])


def test_a_date_in_retry_after_is_supported() -> None:
    at = datetime.now(timezone.utc) + timedelta(seconds=200)
    download = Download(status_response(429, Retry_After=format_datetime(at, usegmt=True)), partial())
    assert download() == CONTENT
    assert download.pauses.seconds == [pytest.approx(200, abs=100)]


def test_a_pause_requested_for_one_file_applies_to_all() -> None:
    download = Download(partial())
    download.limiter.throttled(download.limiter.start(), 50)
    assert download() == CONTENT
    assert download.pauses.seconds == [50]


def test_a_stopped_copy_ends_its_pause() -> None:
    download = Download(status_response(429, Retry_After="60"), stopped_after=2)
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
def test_a_refused_request_is_not_repeated(status: int, kind: ErrorKind) -> None:
    download = Download(status_response(status))
    with pytest.raises(AirsmithError) as refused:
        download()
    assert refused.value.kind is kind
    assert len(download.server.offsets) == 1


class TestRedirect:
    """The Hub redirects to another server for the content."""

    def redirected(self, *answers: Response) -> tuple[Download, list[str]]:
        """Create a download whose URL redirects to numbered addresses."""
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

    def test_the_address_is_resolved_once_and_never_receives_the_token(self, small_ranges: int) -> None:
        download, addresses = self.redirected(partial())
        assert download() == CONTENT
        assert len(addresses) == 1
        assert [str(request.url) for request in download.server.requests] == addresses * 7
        assert not any("Authorization" in request.headers for request in download.server.requests)

    def test_an_expired_address_is_resolved_again(self, small_ranges: int) -> None:
        download, addresses = self.redirected(partial(), partial(), status_response(403), partial())
        assert download() == CONTENT
        assert len(addresses) == 2
        assert download.pauses.seconds == []

    def test_an_address_that_is_refused_at_once_is_not_resolved_again(self) -> None:
        download, addresses = self.redirected(status_response(403))
        with pytest.raises(AirsmithError) as refused:
            download()
        assert refused.value.kind is ErrorKind.ACCESS_DENIED
        assert len(addresses) == 1


def test_no_more_is_in_memory_than_the_pace_has_slots() -> None:
    """Files that are not read further hold no more than their slots."""
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


def test_files_that_share_few_slots_are_all_downloaded(small_ranges: int) -> None:
    limiter = RequestLimiter(3)
    client = httpx.Client(transport=httpx.MockTransport(FakeServer(partial())))
    with ThreadPoolExecutor(3) as requests, ThreadPoolExecutor(5) as readers:
        files = [HttpFile(client, f"{URL}/{index}", len(CONTENT), limiter) for index in range(20)]
        copies = [readers.submit(lambda file=file: b"".join(file.stream(requests, Event()))) for file in files]
        assert [copy.result(timeout=60) for copy in copies] == [CONTENT] * 20
