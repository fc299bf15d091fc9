"""Adapt the number of concurrent requests: lower it when server or link are overloaded, raise it on success."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

log = logging.getLogger("airsmith")

MAX_CONCURRENT_REQUESTS = 8
COLLAPSE_RATIO = 0.5
"""Fraction of the best measured throughput below which the current concurrency does more harm than good."""
_MEASURED_PER_SLOT = 2


@dataclass(frozen=True)
class StartedRequest:
    """A request in flight.

    :param started_at: time on the limiter's clock.
    :param concurrency: requests in flight at that time, including this one.
    """

    started_at: float
    concurrency: int


class RequestLimiter:
    """Slots for ranges that are requested but not yet consumed; bounds the requests and the memory of a whole copy.

    :param max_slots: initial and maximum number of slots.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, max_slots: int = MAX_CONCURRENT_REQUESTS, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = max_slots
        self._max_slots = max_slots
        self._clock = clock
        self._changed = Condition()
        self._taken = 0
        self._waiting = 0
        self._in_flight = 0
        self._paused_until = 0.0
        self._stepped_down_at = 0.0
        self._rates: list[float] = []
        self._best_rate = 0.0

    def acquire(self, *, wait: bool) -> bool:
        """Acquire a slot.

        :param wait: block until a slot is free. Blocked callers take precedence over callers that do not wait.
        :returns: False if no slot is free.
        """
        with self._changed:
            if not wait and (self._taken >= self.slots or self._waiting):
                return False
            self._waiting += 1
            self._changed.wait_for(lambda: self._taken < self.slots)
            self._waiting -= 1
            self._taken += 1
            return True

    def release(self) -> None:
        """Release a slot."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def pause_seconds(self) -> float:
        """Remaining time in which no request may start, as requested by the server."""
        return max(0.0, self._paused_until - self._clock())

    def start(self) -> StartedRequest:
        """Record the start of a request."""
        with self._changed:
            self._in_flight += 1
            return StartedRequest(self._clock(), self._in_flight)

    def throttled(self, request: StartedRequest, pause_seconds: float) -> None:
        """The server throttled a request: halve the concurrency and pause all requests.

        Requests that started before the last reduction are ignored.
        """
        with self._changed:
            self._paused_until = max(self._paused_until, self._clock() + pause_seconds)
            if request.started_at >= self._stepped_down_at:
                self._step_down("the server is busy")

    def finish(self, request: StartedRequest, size_bytes: int) -> None:
        """Record the end of a request.

        :param size_bytes: received bytes; 0 if the request is no measure of the throughput.
        """
        with self._changed:
            self._in_flight -= 1
            if size_bytes and request.started_at >= self._stepped_down_at:
                self._rates.append(request.concurrency * size_bytes / max(self._clock() - request.started_at, 1e-6))
                if len(self._rates) >= _MEASURED_PER_SLOT * self.slots:
                    self._adjust()

    def _adjust(self) -> None:
        rate = sum(self._rates) / len(self._rates)
        self._rates.clear()
        if rate < COLLAPSE_RATIO * self._best_rate:
            self._best_rate = rate
            self._step_down(f"throughput fell to {rate / 2**20:.1f} MiB/s")
        else:
            self._best_rate = max(rate, self._best_rate)
            if self.slots < self._max_slots:
                self.slots += 1
                self._changed.notify()

    def _step_down(self, cause: str) -> None:
        if self.slots > 1:
            self.slots //= 2
            self._stepped_down_at = self._clock()
            self._rates.clear()
            log.warning("%s: continuing with %d concurrent requests", cause, self.slots)
