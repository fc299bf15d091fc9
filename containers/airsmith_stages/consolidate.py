"""Stage `consolidate`: the parts that several processes have written become one model, from store to store."""

from __future__ import annotations

import logging
from functools import partial

from airsmith.contracts.cache import Output
from airsmith.contracts.stages import SHARDS
from airsmith_stages.consolidating.artifacts import consolidate_artifact
from airsmith_stages.consolidating.hugging_face import is_shard, read_hugging_face
from airsmith_stages.frame import StageContext
from airsmith_stages.memory import share_one_arena

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Consolidate the trained model; all but its weights stays as it is."""
    share_one_arena()
    shards = context.input("train")
    processes = int(shards.manifest.properties[SHARDS])
    with context.write_output() as output:
        count = consolidate_artifact(
            shards,
            partial(read_hugging_face, ranks=processes),
            output,
            max_shard_bytes=context.spec.recipe.model.max_shard_bytes,
        )
        for entry in shards.manifest.files:
            if not is_shard(entry.name):
                output.add_copy(entry.name, shards.path(entry.name), entry.size_bytes, entry.sha256)
        log.info("Consolidated %d tensors of %d processes", count, processes)
        properties = {name: value for name, value in shards.manifest.properties.items() if name != SHARDS}
        return Output.of_artifact(output.publish(metrics=shards.manifest.metrics, properties=properties))
