"""The stage's command in a process forked from one that has torch loaded, so that it starts at once."""

from __future__ import annotations

import functools
import gc
import os
import sys
from pathlib import Path
from typing import Any

PRELOAD = ["airsmith_stages.cli", "airsmith_stages.train", "airsmith_stages.training.result", "stage_child"]

# The collector need not look through the libraries again in every child.
gc.freeze()


def run_train(uri: str, log: Path, signal_at: tuple[str, int, int] | None) -> None:
    """Run `airsmith-stage train`.

    :param log: file for stdout and stderr.
    :param signal_at: a function, the number of its call, and the signal that the process gets right before that call.
    """
    from airsmith_stages.cli import main

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if signal_at is not None:
        _signal_at(*signal_at)
    sys.exit(main(["train", "--run", uri]))


def _signal_at(function: str, call: int, signum: int) -> None:
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
