"""Tied input embedding and output head: a change to one of them must not change the other.

During training, peft changes only the module that it wraps. Files can represent that only with a separate matrix for
each. If the adapter trains both alike, they stay tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airsmith_stages.merging.adapter import Adapter
from airsmith_stages.merging.edits import Edit
from airsmith_stages.merging.placement import placements_of
from airsmith_stages.weights.header import Tensor

KEY = "tie_word_embeddings"

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
"""Parameter names; the last of each belongs to GPT-NeoX."""


@dataclass(frozen=True)
class Tying:
    """Whether embedding and head of the merged model are tied.

    :param embedding: name of the embedding's tensor in the files.
    :param head: name of the head's parameter in memory.
    :param is_untied: whether the base ties them and the merged model does not.
    :param is_tied: whether the merged model ties them.
    """

    embedding: str
    head: str
    is_untied: bool
    is_tied: bool

    def shared(self, edits: Mapping[str, list[Edit]], tensors: Mapping[str, Tensor]) -> dict[str, list[Edit]]:
        """The edits; if the files store a tied head as well, it gets the edits of the embedding."""
        if not self.is_tied:
            return dict(edits)
        of_embedding = [made for name, made in edits.items() if _is_at(name, self.embedding, tensors)]
        shared = {name: made for name, made in edits.items() if name != self.head}
        if of_embedding and placements_of(self.head, tensors):
            shared[self.head] = of_embedding[0]
        return shared


def find_tying(
    edits: Mapping[str, list[Edit]], tensors: Mapping[str, Tensor], config: Mapping[str, Any], adapter: Adapter
) -> Tying | None:
    """Decide whether embedding and head stay tied; None if the base has no embedding of a known name.

    :param tensors: tensors of the base.
    """
    embedding = next((name for name in tensors if name.endswith(_EMBEDDINGS)), None)
    if embedding is None:
        return None
    head = _HEADS[embedding.endswith(_EMBEDDINGS[-1])]
    was_tied = not placements_of(head, tensors) or has_tied_embeddings(config)
    of_embedding = next((made for name, made in edits.items() if _is_at(name, embedding, tensors)), [])
    stays_tied = was_tied and _apply_to_both(of_embedding, edits.get(head, []), tensors[embedding], adapter)
    return Tying(embedding, head, is_untied=was_tied and not stays_tied, is_tied=stays_tied)


def has_tied_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a model's config ties its head to its embedding."""
    inner = config.get("text_config")
    return bool(config.get(KEY, inner.get(KEY) if isinstance(inner, Mapping) else None))


def _apply_to_both(of_embedding: list[Edit], of_head: list[Edit], embedding: Tensor, adapter: Adapter) -> bool:
    if of_head:
        names = [[name for edit in edits for name in edit.names] for edits in (of_embedding, of_head)]
        is_whole = all(edit.is_for_tokens or edit.replaced for edit in [*of_embedding, *of_head])
        return is_whole and len(names[0]) == len(names[1]) and all(map(adapter.are_equal, *names))
    return (
        bool(adapter.config.get("ensure_weight_tying"))
        or all(edit.is_for_tokens for edit in of_embedding)
        or any(edit.replaced and edit.replaced != embedding.shape for edit in of_embedding)
    )


def _is_at(parameter: str, tensor: str, tensors: Mapping[str, Tensor]) -> bool:
    return parameter.endswith(_EMBEDDINGS) and [
        placement.tensor for placement in placements_of(parameter, tensors)
    ] == [tensor]
