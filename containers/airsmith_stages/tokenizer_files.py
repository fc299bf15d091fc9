"""Which files of a model make its tokenizer, and their digest."""

from __future__ import annotations

from collections.abc import Iterable

from airsmith.artifacts.manifest import FileEntry
from airsmith.contracts.digests import canonical_digest

TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "generation_config.json",
    "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
"""Files that decide how text becomes tokens; the two configs name the tokenizer's class and where a turn ends."""


def tokenizer_digest(entries: Iterable[FileEntry]) -> str:
    """Digest of a model's tokenizer: the same for two models that differ in their weights alone."""
    return canonical_digest({entry.name: entry.sha256 for entry in entries if entry.name in TOKENIZER_FILES})
