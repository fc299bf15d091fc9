"""How many requests run at once: fewer where the server or the link has had enough, more again while all is well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

log = logging.getLogger("airsmith")

MAX_CONCURRENT_REQUESTS = 8
COLLAPSED = 0.5
"""Of the best throughput that was seen: below this, so many requests at once do more harm than good."""
_MEASURED_PER_SLOT = 2


@dataclass(frozen=True)
class StartedRequest:
    """A request on its way.

    :param at: when it began.
    :param at_once: how many there were then, itself counted.
    """

    at: float
    at_once: int


class RequestLimiter:
    """Slots for what is asked for and not yet used, shared by all files of a copy: a bound on requests and memory.

    :param most: slots at the start, and at most.
    :param clock: seconds that only grow.
    """

    def __init__(self, most: int = MAX_CONCURRENT_REQUESTS, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = most
        self._most = most
        self._clock = clock
        self._changed = Condition()
        self._taken = 0
        self._waiting = 0
        self._asking = 0
        self._paused_until = 0.0
        self._stepped_down_at = 0.0
        self._rates: list[float] = []
        self._best_rate = 0.0

    def acquire(self, *, wait: bool) -> bool:
        """Take a slot.

        :param wait: until there is one. Who does not wait stands back behind those who do.
        :returns: False where there is none.
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
        """Give a slot back."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def pause_seconds(self) -> float:
        """How long nobody is to ask, because the server said so."""
        return max(0.0, self._paused_until - self._clock())

    def start(self) -> StartedRequest:
        """A request begins."""
        with self._changed:
            self._asking += 1
            return StartedRequest(self._clock(), self._asking)

    def throttled(self, begun: StartedRequest, pause_seconds: float) -> None:
        """The server is asked too much: half as many at once, and for a while none.

        Requests that began before the last step down tell nothing new.
        """
        with self._changed:
            self._paused_until = max(self._paused_until, self._clock() + pause_seconds)
            if begun.at >= self._stepped_down_at:
                self._step_down("the server is busy")

    def finish(self, begun: StartedRequest, size_bytes: int) -> None:
        """A request has ended.

        :param size_bytes: what it brought; 0 for one that says nothing of the throughput.
        """
        with self._changed:
            self._asking -= 1
            if size_bytes and begun.at >= self._stepped_down_at:
                self._rates.append(begun.at_once * size_bytes / max(self._clock() - begun.at, 1e-6))
                if len(self._rates) >= _MEASURED_PER_SLOT * self.slots:
                    self._judge()

    def _judge(self) -> None:
        rate = sum(self._rates) / len(self._rates)
        self._rates.clear()
        if rate < COLLAPSED * self._best_rate:
            self._best_rate = rate
            self._step_down(f"throughput fell to {rate / 2**20:.1f} MiB/s")
        else:
            self._best_rate = max(rate, self._best_rate)
            if self.slots < self._most:
                self.slots += 1
                self._changed.notify()

    def _step_down(self, cause: str) -> None:
        if self.slots > 1:
            self.slots //= 2
            self._stepped_down_at = self._clock()
            self._rates.clear()
            log.warning("%s: going on with %d requests at once", cause, self.slots)
