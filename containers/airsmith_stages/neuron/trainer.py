"""optimum-neuron's trainer with Airsmith's labels, sampler, metrics, checkpoints in the store and warm restarts.

The library (0.4.5) supports neither resuming nor a seed for its sampler, and starts every training at step 0. Compiling
and training use this same class, so that the overridden methods create the same graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from neuronx_distributed.parallel_layers.parallel_state import get_data_parallel_rank, get_data_parallel_size
from optimum.neuron import NeuronTrainer, NeuronTrainingArguments
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.neuron.clock import Clock
from airsmith_stages.neuron.position import POSITION_FILE, Position
from airsmith_stages.neuron.rows import StaticCollator, label_count
from airsmith_stages.neuron.sampler import StepSampler
from airsmith_stages.neuron.shards import save_shards
from airsmith_stages.training.callbacks import ProgressReportCallback, StopCallback
from airsmith_stages.training.checkpoints import CheckpointUploader
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import Content
from airsmith_stages.training.interruption import Interruption
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.rows import Row

_COLUMNS = {"train/tokens_per_sec": "padded_tokens_per_second", "train/mfu": "mfu_6n_percent"}
"""The library's metrics, under names that state what they count: its tokens include padding, and its MFU counts 6
operations per parameter and token, although a frozen parameter requires 4."""


@dataclass(frozen=True)
class TrainerContext:
    """The context of a trainer, in addition to model and data.

    :param node_folder: folder shared by the processes of this node.
    :param uploader: None for no checkpoints.
    :param progress: None for no progress reports.
    :param start: the position to resume from.
    :param stop_at_step: step at which the training pauses; None for no pause.
    """

    distributed: DistributedContext
    interruption: Interruption
    node_folder: Path
    is_adapter: bool
    uploader: CheckpointUploader | None = None
    progress: ProgressWriter | None = None
    start: Position = field(default_factory=Position)
    stop_at_step: int | None = None


class WarmRestartingTrainer(NeuronTrainer):
    """A trainer that resumes from any step, with all state except the optimizer's moments."""

    def __init__(
        self,
        model: nn.Module,
        args: NeuronTrainingArguments,
        rows: Dataset[Row],
        collator: StaticCollator,
        context: TrainerContext,
    ) -> None:
        rank, world_size = get_data_parallel_rank(), get_data_parallel_size()
        batch_size = args.per_device_train_batch_size
        rows_per_step = batch_size * args.gradient_accumulation_steps * world_size
        self.context = context
        self.sampler = StepSampler(rows, rows_per_step, batch_size, args.seed, rank, world_size)
        self.sampler.set_steps(context.start.step, args.max_steps)
        self.clock = Clock()
        self.clock.restore(context.start.tokens, context.start.seconds)
        super().__init__(model, args, data_collator=collator, train_dataset=rows, callbacks=self._callbacks(args))
        self.pop_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in the order determined by the seed, from the step to resume from to the last."""
        return super()._get_dataloader(
            self.train_dataset,
            "Training",
            self.args.per_device_train_batch_size,
            sampler_fn=lambda rows: self.sampler,
            is_training=True,
        )

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Present all remaining epochs to the library as one, see `StepSampler`."""
        return (1, *super().set_initial_training_values(*args, **kwargs)[1:])

    def setup_training(self, *args: Any, **kwargs: Any) -> None:
        """Start at the step to resume from, which the first callback, `_ResumeCallback`, sets before others read it."""
        super().setup_training(*args, **kwargs)
        self.global_step_last_logged = self.context.start.step

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Create the scheduler at the step to resume from."""
        scheduler: LambdaLR = super().create_scheduler(num_training_steps, optimizer)
        advance(scheduler, self.context.start.step)
        return scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, float | None]:
        """A step's batches, and the divisor of its loss.

        The divisor is the number of labels on all ranks divided by the number of ranks, because gradients are averaged
        over ranks: the loss is then the mean over labels, however rows are distributed. Pipelines do not use it.
        """
        batches, own_labels = super().get_batch_samples(epoch_iterator, num_batches, *args, **kwargs)
        if own_labels is None:
            return batches, None
        labels = label_count(self.train_dataset, self.sampler.step_rows(self.state.global_step))
        return batches, max(labels, 1) / self.sampler.num_replicas

    def log(self, logs: dict[str, float]) -> None:
        """Append a row to the history, in the format of the run's metrics.

        :raises AirsmithError: `non_finite_loss`.
        """
        metrics = self._metrics_of_last_stage(logs)
        step = self.state.global_step
        _check_finite(metrics, step)
        row = {"step": step, **{name: value for name, value in metrics.items() if "/" not in name}}
        row |= {
            "epoch": self.sampler.epochs_until(step),
            "tokens_per_second": round(self.clock.close_window(), 1),
            **{column: metrics[name] for name, column in _COLUMNS.items() if name in metrics},
        }
        self.state.log_history.append(row)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, row)

    def position(self) -> Position:
        """The training's current position."""
        return Position(
            step=self.state.global_step,
            history=list(self.state.log_history),
            tokens=self.clock.tokens,
            seconds=self.clock.seconds(),
            restarts=self.context.start.restarts,
        )

    def _callbacks(self, args: NeuronTrainingArguments) -> list[TrainerCallback]:
        context = self.context
        return [
            _ResumeCallback(context.start, self.clock),
            StopCallback(
                lambda: context.distributed.any(context.interruption.requested),
                args.logging_steps,
                None,
                context.stop_at_step,
            ),
            _TokenCountCallback(self.sampler, self.clock),
            *([] if context.progress is None else [ProgressReportCallback(context.progress, self.clock)]),
        ]

    def _metrics_of_last_stage(self, logs: Mapping[str, float]) -> Mapping[str, float]:
        """The metrics of the rank that logs: in a pipeline, only the last stage has the loss."""
        by_rank = self.context.distributed.all_gather((self.is_logging_process(), dict(logs)))
        return next(metrics for is_logging, metrics in by_rank if is_logging)

    def _save_checkpoint(self) -> None:
        uploader, context = self.context.uploader, self.context
        assert uploader is not None
        uploader.wait()
        step = self.state.global_step
        folder = context.node_folder / f"checkpoint-{step}"
        files: Content = save_shards(self.model, folder, context.distributed, is_adapter=context.is_adapter)
        if context.distributed.is_main_process:
            files = {**files, POSITION_FILE: self.position().to_bytes()}
        # The process that publishes the node's files removes them; the others pass an empty folder.
        own = (
            folder
            if context.distributed.is_local_main_process
            else _make_empty(context.node_folder / f"none-{context.distributed.rank}")
        )
        uploader.submit(step, lambda: files, own, None)


class _ResumeCallback(TrainerCallback):
    """Sets the trainer's state to the position to resume from, because the library resets the state."""

    def __init__(self, start: Position, clock: Clock) -> None:
        self._start = start
        self._clock = clock

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the state and start the clock."""
        state.global_step = self._start.step
        state.log_history = list(self._start.history)
        state.epoch = None
        self._clock.begin(self._start.step)


class _TokenCountCallback(TrainerCallback):
    """Counts the tokens of each step."""

    def __init__(self, sampler: StepSampler, clock: Clock) -> None:
        self._sampler = sampler
        self._clock = clock

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the tokens of the step."""
        rows: Any = self._sampler.dataset
        self._clock.end_step(sum(int(rows.lengths[row]) for row in self._sampler.step_rows(state.global_step - 1)))


def advance(scheduler: LambdaLR, step: int) -> None:
    """Set a scheduler to a step: the learning rate is a function of the step."""
    rates = [rate * of(step) for rate, of in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler.load_state_dict(
        {**scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    )
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _check_finite(logs: Mapping[str, float], step: int) -> None:
    for name, what in (("loss", "training loss"), ("grad_norm", "gradient norm")):
        if name in logs and not math.isfinite(logs[name]):
            raise AirsmithError(
                ErrorKind.NON_FINITE_LOSS,
                f"The {what} is {logs[name]} at step {step}, or was so since the previous logged step.",
                "Lower training.learning_rate or raise training.warmup_ratio; if training.precision is not float32, "
                "set it to float32.",
            )


def _make_empty(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
