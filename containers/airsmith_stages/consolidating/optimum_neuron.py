"""Read checkpoints that optimum-neuron saves on Trainium: a file per process with its shard of every layer.

`model/dp_rank_00_tp_rank_TT_pp_rank_PP.pt` holds one process's tensors, or ("xser", the default) references to files
`….pt.tensors/tensor_N.pt`; `mp_metadata_pp_rank_PP.json` describes how they are sharded. Replicas on different ranks
may differ slightly; the first rank's is used, as in the library's own consolidation. Each pipeline rank also saves
uninitialized tensors of the other pipeline ranks' layers, which this reader ignores. Source:
`optimum/neuron/models/training/{modeling_utils,checkpointing}.py`, version 0.4.5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, ShardedTensor, bad_checkpoint
from airsmith_stages.consolidating.neuron_layout import Layout, Part, Segment
from airsmith_stages.consolidating.replicas import same_bytes
from airsmith_stages.torch_files import TensorReference, find_state, find_tensor
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader

ADAPTER_SHARDS, MODEL_SHARDS = "adapter_shards/", "shards/"

_REQUESTS = 16
"""Concurrent requests; a store takes some ten milliseconds for each."""
_STATE = re.compile(r"model/dp_rank_(?P<data>\d+)_tp_rank_(?P<tensor>\d+)_pp_rank_(?P<pipeline>\d+)\.pt")


@dataclass(frozen=True)
class _Stored:
    """A tensor of one process, as stored in a file."""

    file: str
    begin: int
    dtype: str
    shape: tuple[int, ...]


_Rank = Mapping[str, _Stored]
"""A process's tensors, by saved name."""


def read_optimum_neuron(source: FileReader, *, folder: str, tp_size: int, pp_size: int) -> ShardedCheckpoint:
    """Read the shards that optimum-neuron's processes saved.

    :param folder: `adapter_shards/`, or `shards/` for full-parameter training.
    :param tp_size: size of tensor parallelism: processes that share each layer.
    :param pp_size: size of pipeline parallelism: groups of processes that each hold some of the layers.
    :returns: tensors by their names in transformers, or in peft's adapters.
    :raises AirsmithError: `bad_data`, naming the file.
    """
    return _Reader(source, folder, tp_size, pp_size).read()


class _Reader:
    def __init__(self, source: FileReader, folder: str, tp_size: int, pp_size: int) -> None:
        self._source, self._folder, self._tp_size, self._pp_size = source, folder, tp_size, pp_size
        self._sizes = source.sizes()
        self._tensors: dict[str, ShardedTensor] = {}

    def read(self) -> ShardedCheckpoint:
        """Read all pipeline ranks, one after another."""
        self._refuse_incomplete()
        layouts = [self._layout(stage) for stage in range(self._pp_size)]
        everywhere = frozenset[str]().union(*(layout.names for layout in layouts))
        for stage, layout in enumerate(layouts):
            ranks = [self._rank(self._state_file(rank, stage)) for rank in range(self._tp_size)]
            names = self._names(stage, layout, ranks, everywhere)
            for name in names:
                self._add(stage, layout, name, [rank[name] for rank in ranks])
        return ShardedCheckpoint(self._source, self._tensors)

    def _refuse_incomplete(self) -> None:
        if f"{self._folder}done" not in self._sizes:
            raise bad_checkpoint(f"The checkpoint has no {self._folder}done, so its save did not finish")
        expected = {(0, rank, stage) for rank in range(self._tp_size) for stage in range(self._pp_size)}
        for name in self._sizes:
            found = _STATE.fullmatch(name.removeprefix(self._folder)) if name.startswith(self._folder) else None
            if found is not None and tuple(int(number) for number in found.groups()) not in expected:
                raise bad_checkpoint(f"{name} belongs to none of the {self._tp_size} × {self._pp_size} processes")
        for _, rank, stage in sorted(expected):
            if self._state_file(rank, stage) not in self._sizes:
                raise bad_checkpoint(f"{self._state_file(rank, stage)} is missing")

    def _state_file(self, rank: int, stage: int) -> str:
        return f"{self._folder}model/dp_rank_00_tp_rank_{rank:02d}_pp_rank_{stage:02d}.pt"

    def _metadata_file(self, stage: int) -> str:
        return f"{self._folder}mp_metadata_pp_rank_{stage}.json"

    def _layout(self, stage: int) -> Layout:
        file = self._metadata_file(stage)
        if file not in self._sizes:
            raise bad_checkpoint(f"{file} is missing")
        try:
            return Layout(json.loads(b"".join(self._source.stream(file))), self._tp_size)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            raise bad_checkpoint(f"{file} does not describe shards of {self._tp_size} ranks: {error}") from error

    def _rank(self, file: str) -> _Rank:
        state = find_state(self._source, file, self._sizes[file])

        def stored(name: str) -> _Stored:
            place, found = file, state[name]
            if isinstance(found, TensorReference):
                place = f"{file}.tensors/tensor_{found.number}.pt"
                if place not in self._sizes:
                    raise bad_checkpoint(f"{place}, which contains {name}, is missing")
                found = find_tensor(self._source, place, 0, self._sizes[place])
            return _Stored(place, found.begin, found.dtype, found.shape)

        with ThreadPoolExecutor(_REQUESTS) as threads:
            return dict(zip(state, threads.map(stored, state), strict=True))

    def _names(self, stage: int, layout: Layout, ranks: list[_Rank], everywhere: frozenset[str]) -> list[str]:
        """Names of a pipeline rank's own tensors; each of its tensor-parallel ranks must have all of them."""
        is_adapter = self._folder == ADAPTER_SHARDS
        required = {name for name in layout.names if "lora_" in name or not is_adapter}
        for rank, tensors in enumerate(ranks):
            file = self._state_file(rank, stage)
            missing = sorted((required | (ranks[0].keys() & layout.names)) - tensors.keys())
            if missing:
                raise bad_checkpoint(
                    f"{file} lacks {missing[0]}, which {self._metadata_file(stage)} or another rank contains"
                )
            for name in sorted(tensors.keys() - everywhere):
                if is_adapter or not self._is_tied(name, tensors, everywhere):
                    raise bad_checkpoint(f"{file} contains {name}, which {self._metadata_file(stage)} does not list")
            if rank and (more := sorted((tensors.keys() & layout.names) - ranks[0].keys())):
                raise bad_checkpoint(f"{file} contains {more[0]}, which {self._state_file(0, stage)} lacks")
        return sorted(ranks[0].keys() & layout.names)

    def _is_tied(self, name: str, tensors: _Rank, known: frozenset[str]) -> bool:
        """Whether it duplicates another tensor, such as a tied head; the metadata lists only one of the two."""
        own = tensors[name]
        return any(
            (other.dtype, other.shape) == (own.dtype, own.shape) and self._are_equal(own, other)
            for known_name, other in tensors.items()
            if known_name in known
        )

    def _are_equal(self, one: _Stored, other: _Stored) -> bool:
        return same_bytes(self._source, _whole(one), _whole(other), ITEM_BYTES[one.dtype])

    def _add(self, stage: int, layout: Layout, name: str, ranks: list[_Stored]) -> None:
        first = ranks[0]
        for stored in ranks:
            if (stored.dtype, stored.shape) != (first.dtype, first.shape):
                raise bad_checkpoint(
                    f"{stored.file} contains {stored.dtype} {list(stored.shape)} for {name}, "
                    f"but {first.file} contains {first.dtype} {list(first.shape)}"
                )
        try:
            parts = layout.parts(name, first.shape)
        except (ValueError, IndexError) as error:
            raise bad_checkpoint(
                f"{first.file} contains {name} in a wrong shape, {list(first.shape)}: {error}"
            ) from error
        for part in parts:
            if part.name in self._tensors:
                raise bad_checkpoint(f"{first.file} contains {part.name}, which another pipeline rank contains as well")
            self._tensors[part.name] = _sharded(part, ranks)


def _sharded(part: Part, ranks: list[_Stored]) -> ShardedTensor:
    held = [
        [chunk for segment in part.segments[rank] for chunk in _chunks(stored, part.dimension, segment)]
        for rank, stored in enumerate(ranks)
    ]
    chunks = [chunk for rank in held[: part.owners] for chunk in rank]
    shape = list(ranks[0].shape)
    if shape:
        shape[part.dimension] = max(chunk.offsets[part.dimension] + chunk.shape[part.dimension] for chunk in chunks)
    copies = tuple(chunk for rank in held[part.owners :] for chunk in rank)
    return ShardedTensor(ranks[0].dtype, tuple(shape), tuple(chunks), copies)


def _whole(stored: _Stored) -> Chunk:
    return Chunk((0,) * len(stored.shape), stored.shape, stored.file, stored.begin)


def _chunks(stored: _Stored, dimension: int, segment: Segment) -> Iterator[Chunk]:
    """A segment as contiguous chunks: a single one, or one per row if it covers some of the columns."""
    if not stored.shape:
        yield _whole(stored)
    elif dimension == 0:
        row_bytes = _bytes_of(stored, stored.shape[1:])
        offsets = (segment.offset, *(0 for _ in stored.shape[1:]))
        yield Chunk(offsets, (segment.length, *stored.shape[1:]), stored.file, stored.begin + segment.begin * row_bytes)
    elif segment.length == stored.shape[1]:
        yield Chunk((0, segment.offset), stored.shape, stored.file, stored.begin)
    else:
        for row in range(stored.shape[0]):
            begin = _bytes_of(stored, (row * stored.shape[1] + segment.begin,))
            yield Chunk((row, segment.offset), (1, segment.length), stored.file, stored.begin + begin)


def _bytes_of(stored: _Stored, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * ITEM_BYTES[stored.dtype]
