"""Files that a model needs in addition to weights and config to be served from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact

CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER_CONFIG = (
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer_config.json",
)

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_BASE_ONLY = ("README.md", ".gitattributes")


def add_all_but_weights(
    base: Artifact, output: ArtifactWriter, chat_template: str | None, end_tokens: Iterable[int]
) -> None:
    """Add all other files of the base to tuned weights and config, with the changes that tuning requires.

    :param output: its existing files are not replaced.
    :param chat_template: the template that the model was tuned with; None for the base's own.
    :param end_tokens: tokens at which the model learned to stop. A base model's config often lists only the end of a
        text, so that its tuned model would generate until it reaches the token limit.
    """
    changed = _changed_files(base, chat_template, end_tokens)
    for name, content in changed.items():
        output.add_bytes(name, content)
    for entry in base.manifest.files:
        if not entry.name.endswith(_WEIGHTS) and entry.name not in (*_BASE_ONLY, *output.files):
            output.add_stream(entry.name, base.stream(entry.name), entry.size_bytes, entry.sha256)


def _changed_files(base: Artifact, chat_template: str | None, end_tokens: Iterable[int]) -> dict[str, bytes]:
    changed: dict[str, bytes] = {}
    if chat_template is not None:
        changed[CHAT_TEMPLATE] = chat_template.encode()
        # Remove the second template, which another library may prefer.
        config = _read(base, TOKENIZER_CONFIG)
        if config.pop("chat_template", None) is not None:
            changed[TOKENIZER_CONFIG] = json.dumps(config, indent=2, ensure_ascii=False).encode()
    config = _read(base, GENERATION_CONFIG)
    stops = config.get("eos_token_id")
    known = stops if isinstance(stops, list) else [] if stops is None else [stops]
    missing = [token for token in dict.fromkeys(end_tokens) if token not in known]
    if missing:
        changed[GENERATION_CONFIG] = (
            json.dumps({**config, "eos_token_id": [*known, *missing]}, indent=2) + "\n"
        ).encode()
    return changed


def _read(base: Artifact, name: str) -> dict[str, Any]:
    content = json.loads(base.read(name)) if name in base.names() else {}
    return content if isinstance(content, dict) else {}
