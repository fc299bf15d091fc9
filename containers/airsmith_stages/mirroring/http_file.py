"""Download a file in ranges over HTTP, with retries after broken connections and a limit on concurrent requests."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from mmap import mmap
from threading import Event

import httpx
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.mirroring.limiter import RequestLimiter, StartedRequest
from airsmith_stages.mirroring.source_file import CopyStoppedError

log = logging.getLogger("airsmith")

RANGE_BYTES = 8 * 1024 * 1024
MAX_ATTEMPTS = 6
"""Consecutive attempts that receive no byte."""
MAX_PAUSE_SECONDS = 330.0
"""Above 300 s, because the Hub's rate limit counts requests in windows of five minutes."""
_BUSY = (429, 503)
_RETRIED = (408, 500, 502, 504)
_REFUSED = (401, 403)


class _RetryableError(Exception):
    """A request failed, and a new attempt may succeed.

    :param pause_seconds: pause that the server requests, if any.
    """

    def __init__(self, cause: str, pause_seconds: float | None = None) -> None:
        super().__init__(cause)
        self.pause_seconds = pause_seconds


@dataclass
class HttpFile:
    """A file at the target of its URL's redirect.

    The target is cached until it expires, so that a large file costs the Hub a single request.

    :param headers: sent only to the URL's own server, such as the token.
    """

    client: httpx.Client
    url: str
    size_bytes: int
    limiter: RequestLimiter
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    _address: str | None = field(default=None, repr=False)

    def stream(self, pool: Executor, stop: Event) -> Iterator[memoryview]:
        """Yield the content in order while several ranges download concurrently.

        :param pool: runs the requests; needs as many threads as the limiter has slots.
        :param stop: when set, no further request is sent.
        :raises AirsmithError: `hub_unavailable`, `access_denied`, `not_found`.
        :raises CopyStoppedError: if `stop` is set.
        """
        starts = deque(range(0, self.size_bytes, RANGE_BYTES))
        ahead: deque[Future[memoryview]] = deque()
        try:
            while starts or ahead:
                while starts and self.limiter.acquire(wait=not ahead):
                    ahead.append(pool.submit(self.read_range, starts.popleft(), stop))
                yield ahead[0].result()
                ahead.popleft()
                self.limiter.release()
        finally:
            for request in ahead:
                request.cancel()
                self.limiter.release()

    def read_range(self, start: int, stop: Event) -> memoryview:
        """Up to `RANGE_BYTES` from an offset; a retry requests only the missing bytes."""
        # mmap instead of bytearray: malloc does not return freed blocks of this size to the system.
        content = memoryview(mmap(-1, min(RANGE_BYTES, self.size_bytes - start)))
        arrived, attempts = 0, 0
        while arrived < len(content):
            self._wait(self.limiter.pause_seconds(), stop)
            cause, pause_seconds = "the response ended early", 2.0**attempts
            try:
                for chunk in self._chunks(start + arrived, start + len(content), stop):
                    content[arrived : arrived + len(chunk)] = chunk
                    arrived, attempts, pause_seconds = arrived + len(chunk), 0, 1.0
            except _RetryableError as failure:
                cause = str(failure)
                pause_seconds = pause_seconds if failure.pause_seconds is None else failure.pause_seconds
            except httpx.RequestError as failure:
                cause = str(failure) or type(failure).__name__
            if arrived < len(content):
                attempts += 1
                if attempts == MAX_ATTEMPTS:
                    raise self._unavailable(cause)
                at = start + arrived
                log.warning("%s: %s at byte %d; retrying in %.0f s", self.url, cause, at, pause_seconds)
                self._wait(pause_seconds, stop)
        return content

    def _chunks(self, start: int, end: int, stop: Event) -> Iterator[bytes]:
        """Request a range once; yields only bytes of that range, even if the server ignores the Range header."""
        address = self._address or self.url
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        if address == self.url:
            headers |= self.headers
        request, passed = self.limiter.start(), 0
        try:
            with self.client.stream("GET", address, headers=headers, follow_redirects=True) as response:
                self._refuse_error(response, address, request)
                if response.history:
                    self._address = str(response.url)
                position = 0 if response.status_code == httpx.codes.OK else start
                for chunk in response.iter_bytes():
                    if stop.is_set():
                        raise CopyStoppedError(self.url)
                    wanted = chunk[max(0, start - position) : max(0, end - position)]
                    position += len(chunk)
                    passed += len(wanted)
                    if wanted:
                        yield wanted
                    if position > end:
                        break
        finally:
            self.limiter.finish(request, passed if passed == RANGE_BYTES else 0)

    def _refuse_error(self, response: httpx.Response, address: str, request: StartedRequest) -> None:
        status = response.status_code
        if response.is_success:
            return
        if status in _REFUSED and address != self.url:
            self._address = None
            raise _RetryableError("the redirect target has expired", 0)
        if status in _BUSY:
            requested_seconds = _requested_pause_seconds(response.headers)
            self.limiter.throttled(request, requested_seconds or 0)
            raise _RetryableError(f"HTTP {status}", requested_seconds)
        if status in _RETRIED:
            raise _RetryableError(f"HTTP {status}", _requested_pause_seconds(response.headers))
        if status in _REFUSED:
            raise AirsmithError(
                ErrorKind.ACCESS_DENIED,
                f"The Hub denies access to {self.url} (HTTP {status}).",
                "Accept the repository's terms, and reference a token of that account as secrets.hf_token.",
            )
        if status == httpx.codes.NOT_FOUND:
            raise AirsmithError(ErrorKind.NOT_FOUND, f"{self.url} no longer exists.", "Start a new run.")
        raise self._unavailable(f"HTTP {status}")

    def _wait(self, seconds: float, stop: Event) -> None:
        if stop.is_set() or (seconds and stop.wait(seconds)):
            raise CopyStoppedError(self.url)

    def _unavailable(self, cause: str) -> AirsmithError:
        return AirsmithError(
            ErrorKind.HUB_UNAVAILABLE,
            f"The Hub did not deliver {self.url}: {cause}.",
            "Check the network, or try again later.",
        )


def _requested_pause_seconds(headers: httpx.Headers) -> float | None:
    """Pause that the server requests: by its rate limit, else by Retry-After, in seconds or as a date."""
    limit = parse_ratelimit_headers(headers)
    asked = headers.get("Retry-After", "")
    if limit is not None and limit.remaining == 0:
        seconds = limit.reset_in_seconds + 1.0  # The header is in whole seconds.
    elif asked.isdigit():
        seconds = float(asked)
    else:
        try:
            seconds = (parsedate_to_datetime(asked) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), MAX_PAUSE_SECONDS)
