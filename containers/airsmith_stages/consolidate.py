"""Stage `consolidate`: merge the shards of several processes into one model or adapter, from store to store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact
from airsmith.contracts.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from airsmith.contracts.cache import Output
from airsmith.contracts.stages import PIPELINE_PARALLEL, SHARDS, TENSOR_PARALLEL, ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.consolidating.artifacts import consolidate_artifact
from airsmith_stages.consolidating.checkpoint import ShardedCheckpoint
from airsmith_stages.consolidating.hugging_face import is_shard, read_hugging_face
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, MODEL_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.memory import use_one_malloc_arena
from airsmith_stages.stage_context import StageContext
from airsmith_stages.weights.readers import FileReader

log = logging.getLogger("airsmith")

_SHARD_PROPERTIES = (SHARDS, TENSOR_PARALLEL, PIPELINE_PARALLEL)


def run(context: StageContext) -> Output:
    """Consolidate the trained shards; all other files of the artifact are copied unchanged."""
    use_one_malloc_arena()
    shards = context.input("train")
    is_adapter = shards.type == ArtifactType.ADAPTER_SHARDS
    with context.write_output() as output:
        result = consolidate_artifact(
            shards,
            _reader(shards),
            output,
            max_shard_bytes=context.spec.recipe.model.max_shard_bytes,
            file=ADAPTER_WEIGHTS if is_adapter else None,
        )
        if is_adapter:
            output.add_bytes(ADAPTER_CONFIG, _ordered_config(shards))
        _copy_the_rest(shards, output)
        log.info("Consolidated %d tensors of %s processes", result.tensors, shards.manifest.properties[SHARDS])
        _log_spread(result.spread)
        metrics = {**shards.manifest.metrics}
        if result.spread.replicated:
            metrics["replica_spread"] = result.spread.largest
        properties = {
            name: value for name, value in shards.manifest.properties.items() if name not in _SHARD_PROPERTIES
        }
        return Output.of_artifact(output.publish(metrics=metrics, properties=properties))


def _reader(shards: Artifact) -> Callable[[FileReader], ShardedCheckpoint]:
    properties = shards.manifest.properties
    if TENSOR_PARALLEL not in properties:
        return partial(read_hugging_face, ranks=int(properties[SHARDS]))
    is_adapter = shards.type == ArtifactType.ADAPTER_SHARDS
    return partial(
        read_optimum_neuron,
        folder=ADAPTER_SHARDS if is_adapter else MODEL_SHARDS,
        tp_size=int(properties[TENSOR_PARALLEL]),
        pp_size=int(properties[PIPELINE_PARALLEL]),
    )


def _ordered_config(shards: Artifact) -> bytes:
    """The adapter's config with its lists sorted: the library writes sets in an arbitrary order."""
    try:
        config = json.loads(shards.read(ADAPTER_CONFIG))
        sorted_lists = {name: sorted(value) for name, value in config.items() if isinstance(value, list)}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AirsmithError(
            ErrorKind.BAD_DATA, f"{ADAPTER_CONFIG} is not a config of peft.", "Clear train to write it again."
        ) from error
    return (json.dumps({**config, **sorted_lists, "inference_mode": True}, indent=2, sort_keys=True) + "\n").encode()


def _copy_the_rest(shards: Artifact, output: ArtifactWriter) -> None:
    for entry in shards.manifest.files:
        is_part = entry.name.startswith((ADAPTER_SHARDS, MODEL_SHARDS)) or is_shard(entry.name)
        if not is_part and entry.name not in output.files:
            output.add_copy(entry.name, shards.path(entry.name), entry.size_bytes, entry.sha256)


def _log_spread(spread: Spread) -> None:
    if spread.differing:
        log.warning(
            "%d of %d replicated tensors differ between processes; the first process's replica is used. "
            "The largest difference, %.3g, is in %s",
            spread.differing,
            spread.replicated,
            spread.largest,
            spread.name,
        )
    elif spread.replicated:
        log.info("All replicas of %d tensors are equal", spread.replicated)
