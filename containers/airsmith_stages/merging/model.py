"""Merge base and adapter into the weights and the config of one model, in one pass over the base."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from airsmith.artifacts.objects import Piece
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.merging.adapter import Adapter, verification_failed
from airsmith_stages.merging.plan import plan_merge
from airsmith_stages.merging.streaming import merged_tensors
from airsmith_stages.weights.cursor import prefetch
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import FileReader
from airsmith_stages.weights.shards import Shard, index_of, plan_shards

CONFIG = "config.json"

WriteFile = Callable[[str, Iterable[Piece], int], object]
"""Writes a file, given its name, its content in pieces and its size in bytes."""


@dataclass(frozen=True)
class MergeReport:
    """Counts of a merge.

    :param merged_tensors: tensors of the base that the adapter changed.
    :param changed_elements: changed elements of these tensors.
    """

    merged_tensors: int
    changed_elements: int


def merge_model(
    base: FileReader, adapter: FileReader, write: WriteFile, *, dtype: str = "auto", max_shard_bytes: int = 5 * 10**9
) -> MergeReport:
    """Merge an adapter into its base as peft's `merge_and_unload` does: computed in float32 and rounded once.

    The base is read once, in order and verified; memory holds blocks of rows, never a whole tensor.

    :param write: receives weights, index and config, one file after another.
    :param dtype: torch's name of the result's type; `auto` keeps each tensor's type.
    :raises AirsmithError: `bad_data` for damaged files; `verification_failed` if adapter tensors match no parameter or
        change nothing, or the result is not finite.
    """
    weights = open_weights(base)
    plan = plan_merge(weights, _read_config(base), Adapter(adapter), dtype)
    shards = plan_shards([(tensor.name, tensor.dtype, tensor.shape) for tensor in plan.tensors], max_shard_bytes)
    changed_elements: dict[str, int] = {}
    tensors = merged_tensors(weights, plan, changed_elements)
    for shard in shards:
        write(shard.file, prefetch(_content(shard, tensors)), shard.size_bytes)
    next(tensors, None)  # reaches the end of the base's last file, where its hash is checked
    _check_changes(changed_elements)
    _write_small(write, shards, plan.config)
    return MergeReport(sum(map(bool, changed_elements.values())), sum(changed_elements.values()))


def _content(shard: Shard, tensors: Iterator[Iterator[Piece]]) -> Iterator[Piece]:
    yield shard.header_bytes
    for _ in shard.header.tensors:
        yield from next(tensors)


def _write_small(write: WriteFile, shards: Sequence[Shard], config: object) -> None:
    small = {CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    index = index_of(shards)
    if index is not None:
        small[index[0]] = index[1]
    for name, content in small.items():
        write(name, [content], len(content))


def _check_changes(changed_elements: dict[str, int]) -> None:
    if not any(changed_elements.values()):
        raise verification_failed(
            "The merge changed no tensor of the base", "Check that training ran and method.target_modules."
        )


def _read_config(base: FileReader) -> dict[str, object]:
    try:
        config = json.loads(base.read_range(CONFIG, 0, base.sizes()[CONFIG]))
        if isinstance(config, dict):
            return config
    except (KeyError, ValueError, RecursionError):
        pass
    raise AirsmithError(ErrorKind.BAD_DATA, f"The base has no readable {CONFIG}.", "Mirror the model again.")
