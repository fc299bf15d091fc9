"""Which files of a model make its tokenizer, and what of a model others depend on, as digests."""

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
"""Files that decide how text becomes tokens; the two configs name the tokenizer's class and where a turn ends."""


def tokenizer_digest(entries: Iterable[FileEntry]) -> str:
    """Digest of a model's tokenizer: the same for two models that differ in their weights alone."""
    return canonical_digest({entry.name: entry.sha256 for entry in entries if entry.name in TOKENIZER_FILES})


def model_properties(entries: Collection[FileEntry]) -> dict[str, str]:
    """What a model's manifest says of it beside its own digest, for stages that read no weights."""
    config = [entry.sha256 for entry in entries if entry.name == "config.json"]
    return {TOKENIZER: tokenizer_digest(entries), **({CONFIG: config[0]} if config else {})}


def generation_end_ids(folder: Path) -> frozenset[int]:
    """Tokens at which a model's generation config stops; none where it has no such file."""
    file = folder / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
