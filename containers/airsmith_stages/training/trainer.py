"""transformers' Trainer with checkpoints in the store, exact resume and a check of the loss in every step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.training import Training
from airsmith_stages.training.callbacks import MeterCallback, ProgressReportCallback, StopCallback
from airsmith_stages.training.checkpoints import CheckpointUploader
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import Content
from airsmith_stages.training.flops import TrainingFlops
from airsmith_stages.training.history import best_step, was_evaluated
from airsmith_stages.training.inputs import TrainingInputs
from airsmith_stages.training.interruption import Interruption
from airsmith_stages.training.meter import Meter
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.sampler import SeededBatchSampler
from airsmith_stages.training.snapshot import Snapshots
from airsmith_stages.training.validation import validation_loss

_METER_STATE = "meter.json"


@dataclass(frozen=True)
class TrainerContext:
    """The context of a trainer, in addition to model, data and recipe.

    :param is_sharded: whether the parameters are sharded over all ranks.
    :param stop_at_step: step at which the training pauses; None for no pause.
    """

    uploader: CheckpointUploader
    progress: ProgressWriter
    interruption: Interruption
    distributed: DistributedContext
    snapshots: Snapshots
    is_sharded: bool
    stop_at_step: int | None
    training_flops: TrainingFlops
    peak_memory_bytes: Callable[[], int]


class ResumableTrainer(Trainer):
    """A Trainer that can be killed at any time and resumes without changing the result.

    It overrides private methods of Trainer: the stage's tests cover each of them, and the stage's digest includes
    transformers' version.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        training: Training,
        inputs: TrainingInputs,
        context: TrainerContext,
    ) -> None:
        distributed = context.distributed
        batch_size = args.per_device_train_batch_size
        rows_per_step = batch_size * args.gradient_accumulation_steps * distributed.world_size
        self.module = model
        self.training = training
        self.inputs = inputs
        self.context = context
        self.sampler = SeededBatchSampler(
            inputs.train.lengths, rows_per_step, batch_size, args.seed, distributed.rank, distributed.world_size
        )
        self.meter = Meter(self.sampler, context.training_flops, context.peak_memory_bytes)
        super().__init__(
            model,
            args,
            data_collator=inputs.collator,
            train_dataset=inputs.train,
            eval_dataset=inputs.validation,
            callbacks=[
                StopCallback(
                    lambda: distributed.any(context.interruption.requested),
                    training.logging_steps,
                    training.early_stopping_patience,
                    context.stop_at_step,
                ),
                MeterCallback(self.meter, distributed),
                *([ProgressReportCallback(context.progress, self.meter)] if distributed.is_main_process else []),
            ],
        )
        # The model is already sharded: accelerate must neither wrap nor shard it, see `_prepare_for_training`.
        self.is_distributed_loading_by_transformers = context.is_sharded and distributed.world_size > 1
        self.remove_callback(PrinterCallback)

    def resume(self, checkpoint: Path | None) -> None:
        """Train to the last step, from the local copy of a checkpoint if given."""
        if checkpoint is None:
            self.train()
            return
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        # An attempt that SIGTERM stopped before its validation leaves the validation to this one.
        self.args.eval_on_start = self._is_evaluation_due(state)
        self.train(resume_from_checkpoint=str(checkpoint))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in the order determined by the seed."""
        return _EpochLoader(self.inputs.train, batch_sampler=self.sampler, collate_fn=self.inputs.collator)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One micro-batch, forward and backward.

        :raises AirsmithError: `non_finite_loss`.
        """
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.meter.add_loss(_check_finite("training loss", loss.item(), self.state.global_step + 1))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean loss per label of the validation split. After SIGTERM, the next attempt validates.

        :raises AirsmithError: `non_finite_loss`.
        """
        assert self.inputs.validation is not None
        loss = validation_loss(
            self.module,
            self.inputs.validation,
            self.inputs.collator,
            self.args.per_device_eval_batch_size,
            should_stop=lambda: self.context.distributed.any(self.context.interruption.requested),
            distributed=self.context.distributed,
        )
        if loss is None:
            self.control.should_save = self.control.should_training_stop = True
            return {}
        metrics = {"eval_loss": _check_finite("validation loss", loss, self.state.global_step)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Append a row to the history, in the format of the run's metrics."""
        step = self.state.global_step
        row: dict[str, float] = {"step": step}
        if "loss" in logs:
            row |= {**logs, **self.meter.close_window(step), "epoch": self.sampler.epochs_until(step)}
        elif "eval_loss" in logs:
            row |= logs
        else:
            return
        self.state.log_history.append(row)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, row)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: counting all parameters for every micro-batch takes time, and the sum is not used."""
        return 0

    def _is_evaluation_due(self, state: Mapping[str, Any]) -> bool:
        step, interval = state["global_step"], self.training.eval_steps
        if interval is None or was_evaluated(state["log_history"], step):
            return False
        return bool(step % interval == 0 or step >= state["max_steps"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Without this check, transformers trains one more step when it resumes a finished training.
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> float:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        full_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return _check_finite("gradient norm", float(full_norm), self.state.global_step + 1)

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Disable deferring: gradients kept until the last micro-batch would not be sharded."""
        return nullcontext()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.context.uploader.wait()
        step = self.state.global_step
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
        files = self._small_files(folder / "small")
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        large = self.context.snapshots.take(self.optimizer.optimizer, folder)

        def content() -> Content:
            return {**files, **large()}

        self.context.uploader.submit(step, content, folder, self._best_step_so_far())

    def _small_files(self, folder: Path) -> dict[str, bytes]:
        """Files of the training's position: the RNG state of every rank, and the rest from the main process."""
        folder.mkdir(parents=True)
        self._save_rng_state(str(folder))
        if self.context.distributed.is_main_process:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            (folder / _METER_STATE).write_text(json.dumps(self.meter.state()))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.context.snapshots.load_model(folder)
        self.meter.restore(json.loads((folder / _METER_STATE).read_text()))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        assert self.lr_scheduler is not None
        self.context.snapshots.load_optimizer(folder, self.optimizer.optimizer)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
        for group, learning_rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = learning_rate

    def _best_step_so_far(self) -> int | None:
        if not self.training.load_best_model_at_end:
            return None
        return best_step(self.state.log_history, self.training.save_steps, self.state.max_steps)


class _EpochLoader(DataLoader[Any]):
    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of an epoch."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _check_finite(what: str, value: float, step: int) -> float:
    if math.isfinite(value):
        return value
    raise AirsmithError(
        ErrorKind.NON_FINITE_LOSS,
        f"The {what} is {value} at step {step}.",
        "Lower training.learning_rate or raise training.warmup_ratio; if training.precision is not float32, set it to "
        "float32.",
    )
