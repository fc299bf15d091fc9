"""Stage `mirror_model`: copy the base model from the Hub or a store, verified and without executable content."""

from __future__ import annotations

import json
import logging
from fnmatch import fnmatchcase
from typing import Any

from airsmith.contracts.cache import Output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import PICKLED_WEIGHTS, ModelSource
from airsmith_stages.mirroring.copying import publish_copy
from airsmith_stages.mirroring.source import Source
from airsmith_stages.mirroring.source_file import SourceFile
from airsmith_stages.stage_context import StageContext
from airsmith_stages.tokenizer_files import model_properties
from airsmith_stages.weights.model import INDEX

log = logging.getLogger("airsmith")

_CONFIGS = ("config.json", "tokenizer_config.json")
_CODE = ("*.py",)


def run(context: StageContext) -> Output:
    """Copy the recipe's base model."""
    model = context.spec.recipe.model
    source = Source("model", model.id, model.revision)
    found = source.files()
    files = [file for file in found if not _excluded(file.name, model)]
    _refuse_pickled_weights(found, files, model)
    _refuse_remote_code(files, model)
    _refuse_missing_shards(files, model)
    return publish_copy(source, files, context, lambda output: model_properties(output.files.values()))


def _excluded(name: str, model: ModelSource) -> bool:
    code = () if model.trust_remote_code else _CODE
    return any(fnmatchcase(name, pattern) for pattern in (*model.exclude, *PICKLED_WEIGHTS, *code))


def _refuse_pickled_weights(found: list[SourceFile], files: list[SourceFile], model: ModelSource) -> None:
    if any(fnmatchcase(file.name, "*.safetensors") and "/" not in file.name for file in files):
        return
    pickled = sorted(file.name for file in found if any(fnmatchcase(file.name, pattern) for pattern in PICKLED_WEIGHTS))
    if pickled:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"{model.id} stores its weights as a pickle ({pickled[0]}), which can run arbitrary code when loaded.",
            "Choose a revision with safetensors, or convert the model yourself if you trust it.",
        )
    raise AirsmithError(
        ErrorKind.BAD_DATA,
        f"{model.id} has no *.safetensors file in its root folder at this revision.",
        "Check model.id, model.revision and model.exclude.",
    )


def _refuse_remote_code(files: list[SourceFile], model: ModelSource) -> None:
    if model.trust_remote_code:
        return
    for file in files:
        if file.name in _CONFIGS and "auto_map" in _read_json(file, model):
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"{file.name} of {model.id} refers to custom Python code (auto_map), which would run in the stages.",
                "Review that code and set model.trust_remote_code to true, or choose another model.",
            )


def _refuse_missing_shards(files: list[SourceFile], model: ModelSource) -> None:
    names = {file.name for file in files}
    index = next((file for file in files if file.name == INDEX), None)
    if index is None:
        return
    weight_map = _read_json(index, model).get("weight_map")
    if not isinstance(weight_map, dict):
        raise AirsmithError(ErrorKind.BAD_DATA, f"{INDEX} of {model.id} has no weight_map.", "Choose another revision.")
    missing = sorted({str(shard) for shard in weight_map.values()} - names)
    if missing:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"{INDEX} of {model.id} refers to {missing[0]}, which does not exist.",
            "Check model.exclude, or report it to the model's owner.",
        )


def _read_json(file: SourceFile, model: ModelSource) -> dict[str, Any]:
    try:
        content = json.loads(file.read())
    except ValueError as error:
        raise AirsmithError(
            ErrorKind.BAD_DATA, f"{file.name} of {model.id} is not valid JSON: {error}.", "Choose another revision."
        ) from error
    return content if isinstance(content, dict) else {}
