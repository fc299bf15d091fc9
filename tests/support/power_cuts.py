"""Stages that lose power at a call of the store."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith_stages.stage_runner import run_stage


class PowerCut(BaseException):
    """The process is gone: no later call reaches the store."""


@contextlib.contextmanager
def power_cut_at(call: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Abort the block at a call of the store, counted from 1; yields the names of the calls so far."""
    calls: list[str] = []

    def cut_off(name: str, original: Any) -> Any:
        def method(self: Store, *arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) >= call:
                raise PowerCut
            return original(self, *arguments, **named)

        return method

    with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
        for name in ("find", "read_range", "stream", "write", "compare_and_swap", "upload", "list", "delete"):
            patch.setattr(Store, name, cut_off(name, getattr(Store, name)))
        yield calls


def runs_cut_off(stage: str, new_run: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Yield runs of a stage, each cut off one call of the store later than the one before; the last one completes."""
    for call in itertools.count(1):
        run, is_complete = new_run(), False
        with power_cut_at(call, monkeypatch):
            run_stage(stage, run)
            is_complete = True
        yield run
        if is_complete:
            return
