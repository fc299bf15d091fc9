"""The files of a model's tokenizer, and digests of the parts of a model that other stages depend on."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from airsmith.artifacts.manifest import FileEntry
from airsmith.contracts.digests import canonical_digest
from airsmith.contracts.stages import CONFIG, TOKENIZER

TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "generation_config.json",
    "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
"""Files that determine how text is tokenized; the two configs define the tokenizer's class and the end of a turn."""


def tokenizer_digest(entries: Iterable[FileEntry]) -> str:
    """Digest of a model's tokenizer; equal for two models that differ only in their weights."""
    return canonical_digest({entry.name: entry.sha256 for entry in entries if entry.name in TOKENIZER_FILES})


def model_properties(entries: Collection[FileEntry]) -> dict[str, str]:
    """Properties of a model's manifest, for stages that do not read weights."""
    config = [entry.sha256 for entry in entries if entry.name == "config.json"]
    return {TOKENIZER: tokenizer_digest(entries), **({CONFIG: config[0]} if config else {})}


def generation_end_ids(folder: Path) -> frozenset[int]:
    """End tokens of a model's generation config; empty without such a file."""
    file = folder / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
