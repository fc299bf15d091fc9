"""Input embedding and output head where they are one matrix: what an adapter does to the one must not befall the other.

While training, peft changes the module that it wraps and leaves the other as it is; only with a matrix each can files
say so. What is trained for both, they go on sharing.
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
"""Their names in memory, the head's of GPT-NeoX last."""


@dataclass(frozen=True)
class Tying:
    """How embedding and head of a model belong together once it is merged.

    :param embedding: name of the embedding's tensor in the files.
    :param head: name of the head's parameter in memory.
    :param is_divided: whether they were one matrix, and are two now.
    :param is_one: whether they are one matrix still.
    """

    embedding: str
    head: str
    is_divided: bool
    is_one: bool

    def shared(self, edits: Mapping[str, list[Edit]], tensors: Mapping[str, Tensor]) -> dict[str, list[Edit]]:
        """The edits, where a head in the files that is still the embedding gets those of the embedding."""
        if not self.is_one:
            return dict(edits)
        of_embedding = [made for name, made in edits.items() if _is_at(name, self.embedding, tensors)]
        shared = {name: made for name, made in edits.items() if name != self.head}
        if of_embedding and placements_of(self.head, tensors):
            shared[self.head] = of_embedding[0]
        return shared


def find_tying(
    edits: Mapping[str, list[Edit]], tensors: Mapping[str, Tensor], config: Mapping[str, Any], adapter: Adapter
) -> Tying | None:
    """Look at a base's embedding and head; None where it has no embedding of a known name.

    :param tensors: the base's.
    """
    embedding = next((name for name in tensors if name.endswith(_EMBEDDINGS)), None)
    if embedding is None:
        return None
    head = _HEADS[embedding.endswith(_EMBEDDINGS[-1])]
    was_one = not placements_of(head, tensors) or is_tied(config)
    of_embedding = next((made for name, made in edits.items() if _is_at(name, embedding, tensors)), [])
    stays_one = was_one and _are_for_both(of_embedding, edits.get(head, []), tensors[embedding], adapter)
    return Tying(embedding, head, is_divided=was_one and not stays_one, is_one=stays_one)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's config says that its head is its embedding."""
    inner = config.get("text_config")
    return bool(config.get(KEY, inner.get(KEY) if isinstance(inner, Mapping) else None))


def _are_for_both(of_embedding: list[Edit], of_head: list[Edit], embedding: Tensor, adapter: Adapter) -> bool:
    if of_head:
        names = [[name for edit in edits for name in edit.names] for edits in (of_embedding, of_head)]
        is_whole = all(edit.is_for_tokens or edit.replaced for edit in [*of_embedding, *of_head])
        return is_whole and len(names[0]) == len(names[1]) and all(map(adapter.are_same, *names))
    return (
        bool(adapter.config.get("ensure_weight_tying"))
        or all(edit.is_for_tokens for edit in of_embedding)
        or any(edit.replaced and edit.replaced != embedding.shape for edit in of_embedding)
    )


def _is_at(parameter: str, tensor: str, tensors: Mapping[str, Tensor]) -> bool:
    return parameter.endswith(_EMBEDDINGS) and [
        placement.tensor for placement in placements_of(parameter, tensors)
    ] == [tensor]
