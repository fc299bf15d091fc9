"""Callbacks of the Trainer: stopping, measuring and reporting."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from airsmith.contracts.pointers import Progress
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.history import is_patience_exhausted, last_value
from airsmith_stages.training.meter import Meter
from airsmith_stages.training.progress import ProgressWriter


class TrainingMeter(Protocol):
    """The measurements of a training that its progress report shows."""

    step_loss: float | None
    tokens_per_second: float | None
    mfu: float | None

    def remaining_seconds(self, step: int, total_steps: int) -> float | None:
        """Estimate of the remaining time."""


class StopCallback(TrainerCallback):
    """Stops the training at its last step, by early stopping, or when a process has received SIGTERM.

    :param should_stop: whether any rank has received SIGTERM; a collective that all ranks must call.
    :param patience: number of validations without a lower loss after which the training stops.
    :param stop_at_step: step at which the training pauses, with a checkpoint to resume from.
    """

    def __init__(
        self, should_stop: Callable[[], bool], logging_steps: int, patience: int | None, stop_at_step: int | None
    ) -> None:
        self._should_stop = should_stop
        self._stop_at_step = stop_at_step
        self._logging_steps = logging_steps
        self._patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop if the checkpoint is that of a finished training."""
        # Attempts may differ in this setting, so the value in the checkpoint does not apply.
        state.logging_steps = self._logging_steps
        self._stop_if_finished(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the last step. After SIGTERM, save immediately and leave the validation to the next attempt."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._is_paused(state):
            control.should_save = control.should_training_stop = True
        if self._should_stop():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Apply early stopping, with a checkpoint."""
        self._stop_if_finished(state, control)
        control.should_save = control.should_save or control.should_training_stop

    def _is_paused(self, state: TrainerState) -> bool:
        return self._stop_at_step is not None and state.global_step >= self._stop_at_step

    def _stop_if_finished(self, state: TrainerState, control: TrainerControl) -> None:
        is_finished = state.global_step >= state.max_steps or self._is_paused(state)
        if is_finished or is_patience_exhausted(state.log_history, self._patience):
            control.should_training_stop = True


class MeterCallback(TrainerCallback):
    """Measures the steps."""

    def __init__(self, meter: Meter, distributed: DistributedContext) -> None:
        self._meter = meter
        self._distributed = distributed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._meter.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the step with the mean loss of all ranks."""
        self._meter.end_step(self._distributed.mean)


class ProgressReportCallback(TrainerCallback):
    """Writes the training's progress to the run's folder."""

    def __init__(self, progress: ProgressWriter, meter: TrainingMeter) -> None:
        self._progress = progress
        self._meter = meter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the history from the checkpoint."""
        self._progress.begin(state.log_history)
        self._report(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        self._report(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the history's new row."""
        self._progress.add_rows(state.log_history[-1:])
        self._report(state)

    def _report(self, state: TrainerState) -> None:
        history, meter = state.log_history, self._meter
        self._progress.update(
            Progress(
                stage="train",
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                loss=meter.step_loss if meter.step_loss is not None else last_value(history, "loss"),
                eval_loss=last_value(history, "eval_loss"),
                learning_rate=last_value(history, "learning_rate"),
                tokens_per_second=meter.tokens_per_second,
                mfu=meter.mfu,
                eta_seconds=meter.remaining_seconds(state.global_step, state.max_steps),
                updated_at=datetime.now(timezone.utc),
            )
        )
