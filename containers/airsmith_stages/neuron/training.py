"""Stage `train` on Trainium with PyTorch/XLA and optimum-neuron's trainer. Not run on a device."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from optimum.neuron import NeuronTrainingArguments

from airsmith.contracts.cache import Output
from airsmith_stages.devices import Device
from airsmith_stages.neuron.arguments import training_arguments
from airsmith_stages.neuron.cache import count_graphs
from airsmith_stages.neuron.environment import cache_folder
from airsmith_stages.neuron.errors import neuron_errors
from airsmith_stages.neuron.model import ModelShard, load_model, seed_steps
from airsmith_stages.neuron.position import Position, read_position
from airsmith_stages.neuron.result import Trained, check_trained, publish
from airsmith_stages.neuron.rows import StaticCollator, check_tokens, read_training_rows
from airsmith_stages.neuron.sampler import total_steps
from airsmith_stages.neuron.shards import load_shards
from airsmith_stages.neuron.trainer import TrainerContext, WarmRestartingTrainer
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.checkpoints import Checkpoints, CheckpointUploader, checkpoints_of
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.interruption import Interruption, interruption_error
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.rows import RowDataset
from airsmith_stages.training.tracking import trackers

log = logging.getLogger("airsmith")


def train(context: StageContext, device: Device) -> Output:
    """Train to the last step, from the newest checkpoint if one exists, and publish the result."""
    recipe = context.spec.recipe
    with neuron_errors():
        rows, collator = read_training_rows(
            context.input("tokenize"), context.scratch / "tokens", recipe.dataset.max_length
        )
        compiled = _count_node_graphs()
        arguments = make_arguments(context, total_steps(context.spec, len(rows)))
        distributed = DistributedContext.from_environment(device.process_group_backend)
        model = load_model(distributed.once_per_node(lambda: context.fetch("mirror_model")), recipe, arguments)
        check_tokens(rows, model.config.vocab_size)
        node_folder = node_scratch(context.scratch, distributed)
        trainer = _fit(context, model, arguments, (rows, collator), distributed, node_folder)
        graphs_compiled = sum(
            distributed.all_gather(_count_node_graphs() - compiled if distributed.is_local_main_process else 0)
        )
        trained = Trained(trainer.model, trainer.position(), trainer.sampler.rows_dropped, graphs_compiled)
        check_trained(model, trained, recipe.training.precision, distributed)
        return publish(context, model, trained, distributed, node_folder / "output")


def make_arguments(context: StageContext, max_steps: int, *, saves: bool = True) -> NeuronTrainingArguments:
    """Create the library's arguments. Creating them initializes the process group of torchrun's processes."""
    return NeuronTrainingArguments(
        **training_arguments(context.spec, context.scratch / "trainer", max_steps, saves=saves)
    )


def node_scratch(scratch: Path, distributed: DistributedContext) -> Path:
    """A folder shared by this node's processes: the library makes them write to the same folder."""
    return distributed.once_per_node(lambda: scratch)


def _fit(
    context: StageContext,
    model: ModelShard,
    arguments: NeuronTrainingArguments,
    inputs: tuple[RowDataset, StaticCollator],
    distributed: DistributedContext,
    node_folder: Path,
) -> WarmRestartingTrainer:
    """Train the model.

    :raises AirsmithError: `interrupted` after SIGTERM, with a checkpoint of the last step; `non_finite_loss`.
    """
    spec = context.spec
    checkpoints, interruption = checkpoints_of(context, distributed), Interruption()
    start = _restore(context, model, checkpoints, arguments.max_steps)
    seed_steps(spec.recipe.training.seed, start.step)
    with (
        ProgressWriter(context.run, trackers(context.run, spec) if distributed.is_main_process else ()) as progress,
        interruption.deferred(),
        CheckpointUploader(checkpoints, spec.recipe.training.save_total_limit) as uploader,
    ):
        trainer = WarmRestartingTrainer(
            model.module,
            arguments,
            *inputs,
            TrainerContext(
                distributed=distributed,
                interruption=interruption,
                node_folder=node_folder,
                is_adapter=model.is_adapter,
                uploader=uploader,
                progress=progress if distributed.is_main_process else None,
                start=start,
                stop_at_step=spec.stop_at_step,
            ),
        )
        trainer.train()
        uploader.wait()
        if distributed.any(interruption.requested):
            raise interruption_error(trainer.position().step, arguments.max_steps)
    return trainer


def _restore(context: StageContext, model: ModelShard, checkpoints: Checkpoints, max_steps: int) -> Position:
    """Load the parameters of the newest checkpoint, if one exists.

    :returns: the position to resume from.
    """
    newest = checkpoints.restore_newest(context.scratch / "restored", at_most=context.spec.stop_at_step)
    if newest is None:
        log.info("Training from the beginning")
        return Position()
    step, folder = newest
    load_shards(model, folder)
    position = read_position(folder)
    if step >= max_steps:
        return position
    log.info(
        "Resuming from the checkpoint of step %d. This is a warm restart: the optimizer's moments start from zero", step
    )
    return replace(position, restarts=position.restarts + 1)


def _count_node_graphs() -> int:
    """Number of compiled graphs in this node's cache."""
    folder = cache_folder()
    return 0 if folder is None else count_graphs(folder)
