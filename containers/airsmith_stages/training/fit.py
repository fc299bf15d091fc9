"""Runs the training from the newest checkpoint, or from the beginning, to the last step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from airsmith.recipe.training import Training
from airsmith_stages.devices import Device
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.arguments import training_arguments
from airsmith_stages.training.checkpoints import CheckpointUploader, checkpoints_of
from airsmith_stages.training.distributed import SINGLE_PROCESS, DistributedContext
from airsmith_stages.training.flops import TrainingFlops, count_flops_per_token
from airsmith_stages.training.history import Row, best_step
from airsmith_stages.training.inputs import TrainingInputs
from airsmith_stages.training.interruption import Interruption, interruption_error
from airsmith_stages.training.model import TrainableModel
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.snapshot import ShardedSnapshots, WholeSnapshots
from airsmith_stages.training.tracking import trackers
from airsmith_stages.training.trainer import ResumableTrainer, TrainerContext

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    :param history: the rows of its metrics.
    :param steps: number of optimizer steps.
    :param tokens: number of tokens trained on, without padding.
    :param seconds: duration of the steps, over all attempts.
    """

    history: Sequence[Row]
    steps: int
    tokens: int
    seconds: float
    optimizer: torch.optim.Optimizer


def fit(
    context: StageContext,
    device: Device,
    model: TrainableModel,
    inputs: TrainingInputs,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> FitResult:
    """Train the model in place.

    :raises AirsmithError: `interrupted` after SIGTERM, with a checkpoint of the last step; `non_finite_loss`.
    """
    training = context.spec.recipe.training
    is_sharded = context.spec.recipe.method.name == "full"
    snapshots = (ShardedSnapshots if is_sharded else WholeSnapshots)(model.module, distributed)
    checkpoints = checkpoints_of(context, distributed)
    newest = checkpoints.restore_newest(context.scratch / "restored", at_most=context.spec.stop_at_step)
    log.info("Training from the beginning" if newest is None else f"Resuming from the checkpoint of step {newest[0]}")
    interruption = Interruption()
    with (
        ProgressWriter(
            context.run, trackers(context.run, context.spec) if distributed.is_main_process else ()
        ) as progress,
        interruption.deferred(),
        CheckpointUploader(checkpoints, training.save_total_limit) as uploader,
    ):
        trainer = ResumableTrainer(
            model.module,
            training_arguments(context.spec, device, context.scratch / "trainer"),
            training,
            inputs,
            TrainerContext(
                uploader=uploader,
                progress=progress,
                interruption=interruption,
                distributed=distributed,
                snapshots=snapshots,
                is_sharded=is_sharded,
                stop_at_step=context.spec.stop_at_step,
                training_flops=_training_flops(device, model, inputs, training),
                peak_memory_bytes=device.peak_memory_bytes,
            ),
        )
        trainer.resume(None if newest is None else newest[1])
        uploader.wait()
        steps, total_steps = trainer.state.global_step, trainer.state.max_steps
        if distributed.any(interruption.requested):
            raise interruption_error(steps, total_steps)
    history = trainer.state.log_history
    best = best_step(history, training.save_steps, steps) if training.load_best_model_at_end else None
    if best is not None and best != steps:
        log.info("Loading the weights of step %d, which has the lowest validation loss", best)
        snapshots.load_model(checkpoints.restore(best, context.scratch / "best"))
    assert trainer.optimizer is not None
    return FitResult(history, steps, trainer.sampler.tokens_until(steps), trainer.meter.seconds(), trainer.optimizer)


def _training_flops(device: Device, model: TrainableModel, inputs: TrainingInputs, training: Training) -> TrainingFlops:
    return TrainingFlops(
        count_flops_per_token(model.module, model.base, inputs.train.sample_lengths()),
        device.peak_flops_per_second(training.precision),
    )
