"""The output of a training: the library's files of all shards, verified, with the training's history."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from airsmith.contracts.cache import Output
from airsmith.contracts.stages import CONFIG, END_TOKENS, PIPELINE_PARALLEL, SHARDS, TENSOR_PARALLEL, TOKENIZER
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.model_files import add_all_but_weights
from airsmith_stages.neuron.model import ModelShard, fingerprints, trained_parameters
from airsmith_stages.neuron.position import Position
from airsmith_stages.neuron.shards import save_shards
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.curve import write_history
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import Content, add_from_all_ranks, files_under
from airsmith_stages.training.history import Row, last_value

log = logging.getLogger("airsmith")

RESUME, WARM_RESTART = "resume", "warm_restart"
"""Property of the output: how the training resumes. A warm restart loses the optimizer's moments."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    :param model: the trainer's model, on the device.
    :param end: the position after the last step.
    :param rows_dropped: number of rows dropped per epoch.
    :param graphs_compiled: number of graphs compiled during the training, on all nodes.
    """

    model: nn.Module
    end: Position
    rows_dropped: int
    graphs_compiled: int


def check_trained(before: ModelShard, trained: Trained, precision: str, distributed: DistributedContext) -> None:
    """Check that all weights are finite and that training has changed them. Each rank checks its shard.

    :raises AirsmithError: `non_finite_loss` or `verification_failed`, with the parameter's name.
    """
    distributed.on_all_ranks(lambda: _check_shard(before, trained.model, precision))


def publish(
    context: StageContext, before: ModelShard, trained: Trained, distributed: DistributedContext, folder: Path
) -> Output:
    """Publish the result and its history; each node adds the files of its ranks.

    :param folder: folder shared by the processes of a node.
    """
    content: Content = save_shards(trained.model, folder, distributed, is_adapter=before.is_adapter)
    if distributed.is_main_process:
        content = {**content, **_history_files(trained.end.history, context.spec.recipe.name, context.scratch)}
    with context.write_output() as output:
        add_from_all_ranks(output, content, distributed)

        def complete() -> Output:
            properties = _properties(context, is_adapter=before.is_adapter)
            if not before.is_adapter:
                base, template = context.input("mirror_model"), context.spec.recipe.dataset.chat_template
                add_all_but_weights(base, output, template, json.loads(properties[END_TOKENS]))
            return Output.of_artifact(output.publish(metrics=_metrics(trained), properties=properties))

        return distributed.on_main_process(complete)


def _check_shard(before: ModelShard, model: nn.Module, precision: str) -> None:
    for name, parameter in trained_parameters(model):
        if not torch.isfinite(parameter.detach().cpu()).all():
            raise AirsmithError(
                ErrorKind.NON_FINITE_LOSS,
                f"After training, {name} contains values that are not finite.",
                "Lower training.learning_rate and start a new run.",
            )
    after = fingerprints(model, precision)
    unchanged = [name for name, fingerprint in after.items() if before.untrained.get(name) == fingerprint]
    if len(unchanged) == len(after):
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"Training did not change any of {len(after)} trained tensors.",
            "Raise training.max_steps or training.learning_rate, or lower training.warmup_ratio: the learning rate of "
            "the first warm-up step is 0.",
        )
    if unchanged:
        log.warning("Training did not change %d of %d trained tensors: %s", len(unchanged), len(after), unchanged[:10])


def _history_files(history: Sequence[Row], title: str, scratch: Path) -> dict[str, Path]:
    folder = scratch / "history"
    folder.mkdir()
    write_history(history, title, folder)
    return files_under(folder)


def _properties(context: StageContext, *, is_adapter: bool) -> dict[str, str]:
    parallel, pointers = context.spec.plan.parallel, context.pointers
    properties = {
        END_TOKENS: pointers["tokenize"].properties[END_TOKENS],
        SHARDS: str(parallel.tensor * parallel.pipeline),
        TENSOR_PARALLEL: str(parallel.tensor),
        PIPELINE_PARALLEL: str(parallel.pipeline),
        RESUME: WARM_RESTART,
    }
    if is_adapter:
        return properties
    base = pointers["mirror_model"].properties
    return properties | {name: base[name] for name in (TOKENIZER, CONFIG) if name in base}


def _metrics(trained: Trained) -> dict[str, float | int | None]:
    """Metrics of the manifest: `train_loss` is the mean since the second-last row; tokens exclude padding."""
    end = trained.end
    return {
        "train_loss": last_value(end.history, "loss"),
        "eval_loss": None,
        "last_eval_loss": None,
        "steps": end.step,
        "tokens": end.tokens,
        "tokens_per_second": round(end.tokens / end.seconds, 1),
        "seconds": round(end.seconds, 1),
        "warm_restarts": end.restarts,
        "rows_dropped_per_epoch": trained.rows_dropped,
        "graphs_compiled": trained.graphs_compiled,
    }
