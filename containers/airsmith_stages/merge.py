"""Stage `merge`: merge base and adapter into one self-contained model that can be served from its folder."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

from airsmith.contracts.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from airsmith.contracts.cache import Output
from airsmith.contracts.stages import END_TOKENS
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.memory import use_one_malloc_arena
from airsmith_stages.merging.model import merge_model
from airsmith_stages.model_files import add_all_but_weights
from airsmith_stages.stage_context import StageContext
from airsmith_stages.tokenizer_files import model_properties
from airsmith_stages.weights.readers import ArtifactReader, FolderReader

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Merge the trained adapter into its base."""
    _refuse_other_base(context)
    use_one_malloc_arena()
    recipe = context.spec.recipe
    base = context.input("mirror_model")
    adapter = FolderReader(context.fetch(context.spec.plan.training_output_stage, [ADAPTER_WEIGHTS, ADAPTER_CONFIG]))
    with context.write_output() as output:
        report = merge_model(
            ArtifactReader(base),
            adapter,
            output.add_stream,
            dtype=recipe.model.dtype,
            max_shard_bytes=recipe.model.max_shard_bytes,
        )
        log.info("Merged: %d tensors and %d elements changed", report.merged_tensors, report.changed_elements)
        end_tokens = json.loads(context.pointers["train"].properties[END_TOKENS])
        add_all_but_weights(base, output, recipe.dataset.chat_template, end_tokens)
        properties = model_properties(output.files.values())
        return Output.of_artifact(output.publish(metrics=asdict(report), properties=properties))


def _refuse_other_base(context: StageContext) -> None:
    """An adapter fits any base of the same shape; only its manifest records the base that it was trained on."""
    trained_on = context.input("train").manifest.inputs.get("mirror_model")
    base = context.pointers["mirror_model"].digest
    if trained_on != base:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"The adapter was trained on base {trained_on}, but this run's base is {base}.",
            "Clear mirror_model, so that train runs again with the same base.",
        )
