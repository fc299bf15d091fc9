"""Stage `merge`: base and adapter become one model that can be served from its folder alone."""

from __future__ import annotations

import logging
from dataclasses import asdict

from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.stages import TOKENIZER
from airsmith_stages.accelerators import get_accelerator
from airsmith_stages.frame import StageContext
from airsmith_stages.tokenizer_files import tokenizer_digest

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Merge the trained adapter into its base."""
    _refuse_other_base(context)
    get_accelerator(context.spec.plan.stage("merge").backend).prepare()
    # These import torch, and `prepare` has to come before that.
    from airsmith_stages.merging import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter
    from airsmith_stages.model_folder import complete_model_folder

    recipe = context.spec.recipe
    code = recipe.model.trust_remote_code
    base = context.fetch("mirror_model")
    adapter = context.fetch("train", [ADAPTER_WEIGHTS, ADAPTER_CONFIG])
    merged = context.scratch / "merged"
    report = merge_adapter(
        base,
        adapter,
        merged,
        dtype=recipe.model.dtype,
        max_shard_size=recipe.model.max_shard_size,
        trust_remote_code=code,
    )
    log.info("Merged %d tensors; the logits differ by %.1e", report.merged_tensors, report.logits_difference)
    complete_model_folder(merged, base, recipe.dataset.chat_template, trust_remote_code=code)
    with context.write_output() as output:
        output.add_folder(merged)
        properties = {TOKENIZER: tokenizer_digest(output.files.values())}
        return Output.of_artifact(output.publish(metrics=asdict(report), properties=properties))


def _refuse_other_base(context: StageContext) -> None:
    """An adapter fits any base of the same shape; only its manifest knows which one it was trained on."""
    trained_on = context.input("train").manifest.inputs.get("mirror_model")
    base = context.pointers["mirror_model"].digest
    if trained_on != base:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"The adapter was trained on base {trained_on}, but this run's base is {base}.",
            "Clear mirror_model, so that train follows with the same base.",
        )
