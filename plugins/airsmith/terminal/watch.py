"""The progress of a run: the states of its stages, and a progress bar with loss and ETA during training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from airsmith.contracts.pointers import Progress, StageStatus
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind

POLL_SECONDS = 1.0

_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "done": ("✓", "green"),
    "cached": ("✓", "green"),
    "failed": ("✗", "red"),
    "interrupted": ("‖", "yellow"),
}


@dataclass(frozen=True)
class Snapshot:
    """The state of a run: its stages in order, the statuses of those that have started, and the training's progress."""

    stages: tuple[str, ...]
    statuses: dict[str, StageStatus]
    progress: Progress | None

    def state(self, stage: str) -> str:
        """State of a stage; `waiting` before it starts."""
        return self.statuses[stage].state if stage in self.statuses else "waiting"

    @property
    def finished(self) -> bool:
        """Whether every stage has its output."""
        return all(self.state(stage) in ("done", "cached") for stage in self.stages)

    @property
    def stuck(self) -> bool:
        """Whether a stage has failed and no stage is running; a retry may still change that."""
        states = {self.state(stage) for stage in self.stages}
        return bool(states & {"failed", "interrupted"}) and "running" not in states


def take_snapshot(run: Run) -> Snapshot | None:
    """Read the state of a run; None before `resolve` has written its spec."""
    try:
        spec = run.read_spec()
    except AirsmithError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return None
        raise
    return Snapshot(tuple(plan.stage for plan in spec.plan.stages), run.statuses(), run.progress())


def watch(run: Run, console: Console, is_finished: Callable[[], bool] | None = None) -> bool:
    """Show a run until it is finished: as a live table in a terminal, as one line per change otherwise.

    :param is_finished: whether the process that drives the run is finished; None finishes when every stage has its
        output or a stage has failed.
    :returns: whether every stage has its output.
    """
    with _screen(console) as show:
        while True:
            finished = is_finished is not None and is_finished()
            snapshot = take_snapshot(run)
            if snapshot is not None:
                show(snapshot)
                finished = finished or (is_finished is None and (snapshot.finished or snapshot.stuck))
            if finished:
                return snapshot is not None and snapshot.finished
            time.sleep(POLL_SECONDS)


@contextmanager
def _screen(console: Console) -> Iterator[Callable[[Snapshot], None]]:
    """A function that shows a snapshot on the console."""
    if not console.is_terminal:
        yield LineView(console).show
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda snapshot: live.update(render(snapshot), refresh=True)


@dataclass
class LineView:
    """Prints a run as lines: one per change of a stage's state, and one per tenth of the training."""

    console: Console
    printed: dict[str, str] = field(default_factory=dict)
    tenth: int = -1

    def show(self, snapshot: Snapshot) -> None:
        """Print the changes since the previous snapshot."""
        for stage in snapshot.stages:
            state = snapshot.state(stage)
            if state != self.printed.get(stage, "waiting"):
                self.printed[stage] = state
                self.console.print(_stage_line(snapshot.statuses[stage]), soft_wrap=True, highlight=False)
        if snapshot.progress is not None and snapshot.state("train") == "running":
            tenth = 10 * snapshot.progress.step // max(1, snapshot.progress.total_steps)
            if tenth > self.tenth:
                self.tenth = tenth
                self.console.print(f"train: {progress_line(snapshot.progress)}", soft_wrap=True, highlight=False)


def render(snapshot: Snapshot) -> RenderableType:
    """Render a run: one line per stage, the training's progress bar, and the errors."""
    table = Table.grid(padding=(0, 2))
    for stage in snapshot.stages:
        mark, style = _MARKS[snapshot.state(stage)]
        status = snapshot.statuses.get(stage)
        table.add_row(Text(mark, style), Text(stage, style), Text(_duration(status), "dim"), _detail(stage, snapshot))
    errors = [
        Text(f"{status.stage}: {status.error} {status.hint}", "red")
        for status in snapshot.statuses.values()
        if status.state == "failed"
    ]
    return Group(table, *errors)


def _detail(stage: str, snapshot: Snapshot) -> RenderableType:
    if stage == "train" and snapshot.progress is not None and snapshot.state(stage) == "running":
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, snapshot.progress.total_steps), completed=snapshot.progress.step, width=30)
        row.add_row(bar, Text(progress_line(snapshot.progress)))
        return row
    return Text("reused" if snapshot.state(stage) == "cached" else "", "dim")


def progress_line(progress: Progress) -> str:
    """Step, loss, speed and ETA in one line."""
    parts = [f"{progress.step}/{progress.total_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.eval_loss is not None:
        parts.append(f"validation {progress.eval_loss:.4f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    if progress.eta_seconds is not None:
        minutes, seconds = divmod(round(progress.eta_seconds), 60)
        parts.append(f"ETA {minutes}:{seconds:02d}")
    return "  ".join(parts)


def _stage_line(status: StageStatus) -> str:
    if status.state == "failed":
        return f"{status.stage}: failed after {status.seconds:.1f} s: {status.error} {status.hint}"
    if status.state == "running":
        return f"{status.stage}: running"
    return f"{status.stage}: {status.state} in {status.seconds:.1f} s"


def _duration(status: StageStatus | None) -> str:
    if status is None:
        return ""
    if status.state == "running":
        return f"{(datetime.now(timezone.utc) - status.started_at).total_seconds():.0f} s"
    return f"{status.seconds:.1f} s"
