"""Stage `train` on Trainium by PyTorch/XLA: optimum-neuron's trainer over our rows. Not run on a device."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from optimum.neuron import NeuronTrainingArguments

from airsmith.contracts.cache import Output
from airsmith_stages.accelerators import Accelerator
from airsmith_stages.frame import StageContext
from airsmith_stages.neuron.arguments import training_arguments
from airsmith_stages.neuron.cache import count_graphs
from airsmith_stages.neuron.environment import cache_folder
from airsmith_stages.neuron.errors import neuron_errors
from airsmith_stages.neuron.model import PartOfModel, load_model, seed_steps
from airsmith_stages.neuron.order import total_steps
from airsmith_stages.neuron.position import Position, read_position
from airsmith_stages.neuron.result import Trained, check_trained, publish
from airsmith_stages.neuron.rows import StaticCollator, check_tokens, read_training_rows
from airsmith_stages.neuron.shards import load_shards
from airsmith_stages.neuron.trainer import Surroundings, WarmRestartingTrainer
from airsmith_stages.training.checkpoints import Checkpoints, CheckpointUploader, checkpoints_of
from airsmith_stages.training.interruption import Interruption, interrupted
from airsmith_stages.training.processes import Processes
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.rows import RowDataset
from airsmith_stages.training.together import fetch_together
from airsmith_stages.training.tracking import trackers

log = logging.getLogger("airsmith")


def train(context: StageContext, accelerator: Accelerator) -> Output:
    """Train to the last step, from the newest checkpoint where there is one, and publish what was trained."""
    recipe = context.spec.recipe
    with neuron_errors():
        rows, collator = read_training_rows(
            context.input("tokenize"), context.scratch / "tokens", recipe.dataset.max_length
        )
        compiled = _graphs()
        arguments = join(context, total_steps(context.spec, len(rows)))
        processes = Processes.join(accelerator.process_group_backend)
        model = load_model(fetch_together(context, "mirror_model", processes), recipe, arguments)
        check_tokens(rows, model.config.vocab_size)
        node_folder = shared_folder(context.scratch, processes)
        trainer = _fit(context, model, arguments, (rows, collator), processes, node_folder)
        anew = sum(processes.gather(_graphs() - compiled if processes.node[1] == 0 else 0))
        trained = Trained(trainer.model, trainer.position(), trainer.order.rows_dropped, anew)
        check_trained(model, trained, recipe.training.precision, processes)
        return publish(context, model, trained, processes, node_folder / "output")


def join(context: StageContext, max_steps: int, *, saves: bool = True) -> NeuronTrainingArguments:
    """The library's arguments. As they are made, this process meets the others that torchrun has started."""
    return NeuronTrainingArguments(
        **training_arguments(context.spec, context.scratch / "trainer", max_steps, saves=saves)
    )


def shared_folder(scratch: Path, processes: Processes) -> Path:
    """A folder of this node's processes: the library lets them write into one."""
    everyones = processes.gather((*processes.node, str(scratch)))
    node = processes.node[0]
    return Path(next(folder for of_node, number, folder in everyones if (of_node, number) == (node, 0)))


def _fit(
    context: StageContext,
    model: PartOfModel,
    arguments: NeuronTrainingArguments,
    inputs: tuple[RowDataset, StaticCollator],
    processes: Processes,
    node_folder: Path,
) -> WarmRestartingTrainer:
    """Train the model.

    :raises AirsmithError: `interrupted` after SIGTERM, with a checkpoint of the last step; `non_finite_loss`.
    """
    spec = context.spec
    checkpoints, interruption = checkpoints_of(context, processes), Interruption()
    start = _go_on(context, model, checkpoints, arguments.max_steps)
    seed_steps(spec.recipe.training.seed, start.step)
    with (
        ProgressWriter(context.run, trackers(context.run, spec) if processes.is_leader else ()) as progress,
        interruption.deferred(),
        CheckpointUploader(checkpoints, spec.recipe.training.save_total_limit) as uploader,
    ):
        trainer = WarmRestartingTrainer(
            model.module,
            arguments,
            *inputs,
            Surroundings(
                processes=processes,
                interruption=interruption,
                node_folder=node_folder,
                is_adapter=model.is_adapter,
                uploader=uploader,
                progress=progress if processes.is_leader else None,
                start=start,
                stop_at_step=spec.stop_at_step,
            ),
        )
        trainer.train()
        uploader.wait()
        if processes.any(interruption.requested):
            raise interrupted(trainer.position().step, arguments.max_steps)
    return trainer


def _go_on(context: StageContext, model: PartOfModel, checkpoints: Checkpoints, max_steps: int) -> Position:
    """Put the newest checkpoint's parameters back, where there is one.

    :returns: where the training goes on.
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
    log.info("Going on from the checkpoint of step %d. It is a warm restart: the optimizer's moments begin anew", step)
    return replace(position, restarts=position.restarts + 1)


def _graphs() -> int:
    """Compiled graphs of this node."""
    folder = cache_folder()
    return 0 if folder is None else count_graphs(folder)
