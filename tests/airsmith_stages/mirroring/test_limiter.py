"""The limiter reduces concurrent requests when throughput or the server suffers, and then increases them again."""

from __future__ import annotations

import pytest

from airsmith_stages.mirroring.limiter import RequestLimiter

RANGE = 8 * 2**20


class Link:
    """A simulated link that concurrent requests share."""

    def __init__(self, max_slots: int) -> None:
        self.now = 0.0
        self.limiter = RequestLimiter(max_slots, clock=lambda: self.now)

    def transfer(self, rounds: int, bytes_per_second: float) -> None:
        """Transfer ranges in rounds, with as many concurrent requests as slots."""
        for _ in range(rounds):
            started = [self.limiter.start() for _ in range(self.limiter.slots)]
            self.now += len(started) * RANGE / bytes_per_second
            for request in started:
                self.limiter.finish(request, RANGE)


def test_steady_throughput_keeps_the_number_of_slots() -> None:
    link = Link(12)
    link.transfer(20, 100e6)
    assert link.limiter.slots == 12


def test_collapsing_throughput_halves_the_slots_which_recover_gradually() -> None:
    link = Link(12)
    link.transfer(4, 100e6)
    link.transfer(2, 20e6)
    assert link.limiter.slots == 6
    link.transfer(2, 20e6)
    assert link.limiter.slots == 7
    link.transfer(40, 20e6)
    assert link.limiter.slots == 12


def test_slightly_lower_throughput_keeps_the_number_of_slots() -> None:
    link = Link(12)
    link.transfer(4, 100e6)
    link.transfer(4, 60e6)
    assert link.limiter.slots == 12


def test_small_responses_do_not_count_as_throughput() -> None:
    link = Link(4)
    link.transfer(4, 100e6)
    for _ in range(50):
        started = link.limiter.start()
        link.now += 10
        link.limiter.finish(started, 0)
    link.transfer(4, 100e6)
    assert link.limiter.slots == 4


def test_concurrent_refusals_halve_the_slots_once() -> None:
    link = Link(12)
    started = [link.limiter.start() for _ in range(12)]
    link.now += 1
    for request in started:
        link.limiter.throttled(request, 5)
        link.limiter.finish(request, 0)
    assert link.limiter.slots == 6
    assert link.limiter.pause_seconds() == 5
    link.now += 5
    assert link.limiter.pause_seconds() == 0
    for _ in range(9):
        link.limiter.throttled(link.limiter.start(), 0)
        link.now += 1
    assert link.limiter.slots == 1


def test_released_slots_above_a_lower_limit_are_not_reused() -> None:
    limiter = RequestLimiter(4)
    assert all(limiter.acquire(wait=False) for _ in range(4))
    limiter.throttled(limiter.start(), 0)
    limiter.release()
    limiter.release()
    assert not limiter.acquire(wait=False)
    limiter.release()
    assert limiter.acquire(wait=False)


@pytest.mark.parametrize("max_slots", [1, 2, 3])
def test_at_least_one_slot_remains(max_slots: int) -> None:
    limiter = RequestLimiter(max_slots)
    for _ in range(5):
        limiter.throttled(limiter.start(), 0)
    assert limiter.acquire(wait=True)
