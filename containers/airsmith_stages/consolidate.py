"""Stage `consolidate`: the parts that several processes have written become one, from store to store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact
from airsmith.contracts.cache import Output
from airsmith.contracts.stages import PIPELINE_PARALLEL, SHARDS, TENSOR_PARALLEL, ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from airsmith_stages.consolidating.artifacts import consolidate_artifact
from airsmith_stages.consolidating.checkpoint import ShardedCheckpoint
from airsmith_stages.consolidating.hugging_face import is_shard, read_hugging_face
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, MODEL_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.memory import use_one_malloc_arena
from airsmith_stages.stage_context import StageContext
from airsmith_stages.weights.readers import FileReader

log = logging.getLogger("airsmith")

_OF_SHARDS = (SHARDS, TENSOR_PARALLEL, PIPELINE_PARALLEL)


def run(context: StageContext) -> Output:
    """Consolidate what was trained; all else of its artifact stays as it is."""
    use_one_malloc_arena()
    shards = context.input("train")
    is_adapter = shards.type == ArtifactType.ADAPTER_SHARDS
    with context.write_output() as output:
        made = consolidate_artifact(
            shards,
            _reader(shards),
            output,
            max_shard_bytes=context.spec.recipe.model.max_shard_bytes,
            file=ADAPTER_WEIGHTS if is_adapter else None,
        )
        if is_adapter:
            output.add_bytes(ADAPTER_CONFIG, _ordered_config(shards))
        _copy_the_rest(shards, output)
        log.info("Consolidated %d tensors of %s processes", made.tensors, shards.manifest.properties[SHARDS])
        _report(made.spread)
        metrics = {**shards.manifest.metrics}
        if made.spread.replicated:
            metrics["replica_spread"] = made.spread.largest
        properties = {name: value for name, value in shards.manifest.properties.items() if name not in _OF_SHARDS}
        return Output.of_artifact(output.publish(metrics=metrics, properties=properties))


def _reader(shards: Artifact) -> Callable[[FileReader], ShardedCheckpoint]:
    properties = shards.manifest.properties
    if TENSOR_PARALLEL not in properties:
        return partial(read_hugging_face, ranks=int(properties[SHARDS]))
    is_adapter = shards.type == ArtifactType.ADAPTER_SHARDS
    return partial(
        read_optimum_neuron,
        folder=ADAPTER_SHARDS if is_adapter else MODEL_SHARDS,
        tensor=int(properties[TENSOR_PARALLEL]),
        pipeline=int(properties[PIPELINE_PARALLEL]),
    )


def _ordered_config(shards: Artifact) -> bytes:
    """The adapter's config, its sets in one order: the library writes them in another one each time."""
    try:
        config = json.loads(shards.read(ADAPTER_CONFIG))
        sets = {name: sorted(value) for name, value in config.items() if isinstance(value, list)}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AirsmithError(
            ErrorKind.BAD_DATA, f"{ADAPTER_CONFIG} is no config of peft's.", "Clear train, so that it is written again."
        ) from error
    return (json.dumps({**config, **sets, "inference_mode": True}, indent=2, sort_keys=True) + "\n").encode()


def _copy_the_rest(shards: Artifact, output: ArtifactWriter) -> None:
    for entry in shards.manifest.files:
        is_part = entry.name.startswith((ADAPTER_SHARDS, MODEL_SHARDS)) or is_shard(entry.name)
        if not is_part and entry.name not in output.files:
            output.add_copy(entry.name, shards.path(entry.name), entry.size_bytes, entry.sha256)


def _report(spread: Spread) -> None:
    if spread.differing:
        log.warning(
            "Of %d tensors that several processes hold, %d are not the same everywhere: the first process's count. "
            "The largest difference, %.3g, is in %s",
            spread.replicated,
            spread.differing,
            spread.largest,
            spread.name,
        )
    elif spread.replicated:
        log.info("What several processes hold of %d tensors is the same", spread.replicated)
