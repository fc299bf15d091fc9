"""Stage `merge`: base and adapter become one model that can be served from its folder alone."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.stages import TOKENIZER
from airsmith_stages.frame import StageContext
from airsmith_stages.tokenizer_files import tokenizer_digest

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Merge the trained adapter into its base."""
    from airsmith_stages.merging import merge_adapter

    _refuse_other_base(context)
    recipe = context.spec.recipe
    merged = context.scratch / "merged"
    report = merge_adapter(
        context.fetch("mirror_model"),
        context.fetch("train"),
        merged,
        dtype=recipe.model.dtype,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    log.info("Merged %d modules; logits differ by %.1e", report.merged_modules, report.logits_difference)
    if recipe.dataset.chat_template is not None:
        write_chat_template(merged, recipe.dataset.chat_template)
    with context.write_output() as output:
        output.add_folder(merged)
        properties = {TOKENIZER: tokenizer_digest(output.files.values())}
        return Output.of_artifact(output.publish(metrics=asdict(report), properties=properties))


def write_chat_template(model: Path, template: str) -> None:
    """Give a model the chat template that it was tuned with, in place of its own."""
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    config_file = model / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config.pop("chat_template", None) is not None:
        config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _refuse_other_base(context: StageContext) -> None:
    """An adapter fits any base of the same shape; only its manifest knows which one it was trained on."""
    trained_on = context.input("train").manifest.inputs.get("mirror_model")
    base = context.pointers["mirror_model"].digest
    if trained_on != base:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"The adapter was trained on base {trained_on}, but this run's base is {base}.",
            "Clear mirror_model and train.",
        )
