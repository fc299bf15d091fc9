"""`airsmith-stage train` in processes forked from one that has already imported torch, so that each starts at once."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airsmith.contracts.run import Run

PRELOAD = ["airsmith_stages.cli", "airsmith_stages.train", "airsmith_stages.training.result", __name__]

SignalAt = tuple[str, int, int]
"""A function, the number of its call, and the signal that the process gets right before that call."""
TrainCommand = Callable[..., tuple[int, str]]
"""Takes a run and optionally a `SignalAt`; returns exit code and log."""

# The garbage collector of a child need not traverse the libraries again.
gc.freeze()


def train_command(log: Path) -> TrainCommand:
    """Return a function that runs the command in a new process.

    :param log: file for stdout and stderr.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def train(run: Run, signal_at: SignalAt | None = None) -> tuple[int, str]:
        log.write_text("")
        process = context.Process(target=_run_train, args=(run.uri, log, signal_at))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, log.read_text()

    return train


def _run_train(uri: str, log: Path, signal_at: SignalAt | None) -> None:
    from airsmith_stages.cli import main

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if signal_at is not None:
        _send_signal_at(*signal_at)
    sys.exit(main(["train", "--run", uri]))


def _send_signal_at(function: str, call: int, signum: int) -> None:
    from airsmith.artifacts.store import Store
    from airsmith_stages.training import validation
    from airsmith_stages.training.trainer import ResumableTrainer

    owner: Any = {"training_step": ResumableTrainer, "__getitem__": validation.RowDataset}.get(function, Store)
    original = getattr(owner, function)
    calls = 0

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    setattr(owner, function, counted)
