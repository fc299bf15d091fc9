"""What happens around the Trainer's steps: when training ends, and what people see of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from airsmith.contracts.pointers import Progress
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.history import is_patience_spent, last_value
from airsmith_stages.training.meter import Meter
from airsmith_stages.training.progress import ProgressWriter


class SpeedMeter(Protocol):
    """What people want to know of a training at once."""

    step_loss: float | None
    tokens_per_second: float | None
    mfu: float | None

    def seconds_to_go(self, step: int, total_steps: int) -> float | None:
        """Estimate of what is left."""


class StopCallback(TrainerCallback):
    """Ends the training: at its last step, when the patience is spent, or when a process is told to stop.

    :param should_stop: whether one of the processes was told to stop; all ask at the same time.
    :param patience: validations without a lower loss after which training stops.
    :param stop_at_step: where it pauses, with a checkpoint to go on from.
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
        """A checkpoint may be one of a training that was over."""
        # Not what the checkpoint says: this may differ between two attempts.
        state.logging_steps = self._logging_steps
        self._stop_where_over(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the last step; when told to stop, leave the validation to whoever resumes and save at once."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._is_paused(state):
            control.should_save = control.should_training_stop = True
        if self._should_stop():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop early, with a checkpoint."""
        self._stop_where_over(state, control)
        control.should_save = control.should_save or control.should_training_stop

    def _is_paused(self, state: TrainerState) -> bool:
        return self._stop_at_step is not None and state.global_step >= self._stop_at_step

    def _stop_where_over(self, state: TrainerState, control: TrainerControl) -> None:
        is_over = state.global_step >= state.max_steps or self._is_paused(state)
        if is_over or is_patience_spent(state.log_history, self._patience):
            control.should_training_stop = True


class MeterCallback(TrainerCallback):
    """Counts the steps."""

    def __init__(self, meter: Meter, distributed: DistributedContext) -> None:
        self._meter = meter
        self._distributed = distributed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._meter.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step, with the loss of all processes."""
        self._meter.end_step(self._distributed.mean)


class ProgressReportCallback(TrainerCallback):
    """Tells the run's folder how far the training is."""

    def __init__(self, progress: ProgressWriter, meter: SpeedMeter) -> None:
        self._progress = progress
        self._meter = meter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the history that a checkpoint brought."""
        self._progress.begin(state.log_history)
        self._tell(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell the step."""
        self._tell(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the history's new row."""
        self._progress.add_rows(state.log_history[-1:])
        self._tell(state)

    def _tell(self, state: TrainerState) -> None:
        history, meter = state.log_history, self._meter
        self._progress.tell(
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
                eta_seconds=meter.seconds_to_go(state.global_step, state.max_steps),
                updated_at=datetime.now(timezone.utc),
            )
        )
