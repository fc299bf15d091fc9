"""The layout of optimum-neuron's sharded tensors, from its metadata of a pipeline rank's modules.

Its layers differ from those of transformers: `gate_up_proj` fuses two projections; `qkv_proj` fuses three if there are
fewer key-value heads than ranks. In that case key-value heads are replicated, and each rank has the query heads of its
key-value heads; `o_proj` has its columns in the same order. Fused projections share one LoRA A matrix.
Source: `optimum/neuron/models/training/transformations_utils.py`, version 0.4.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

_ADAPTER_NAME = re.compile(r"(\.lora_(?:embedding_)?[AB])\.\w+")
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass(frozen=True)
class Segment:
    """Rows or columns that are contiguous both in a rank's tensor and in the whole tensor.

    :param begin: first row or column in the rank's tensor.
    :param offset: first row or column in the whole tensor.
    """

    begin: int
    length: int
    offset: int


@dataclass(frozen=True)
class Part:
    """The shards of one tensor in the ranks' tensors of one name.

    :param name: name of the tensor in transformers or peft.
    :param dimension: sharded dimension.
    :param segments: by rank.
    :param owners: number of ranks that together hold the whole tensor; later ranks hold replicas.
    """

    name: str
    dimension: int
    segments: tuple[tuple[Segment, ...], ...]
    owners: int


_Parts = Callable[[tuple[int, ...]], list[Part]]
"""The parts in a rank's tensor of this shape.

:raises ValueError: if the tensor cannot have this shape.
"""


class Layout:
    """The layout that one pipeline rank's metadata describes.

    :param metadata: content of `mp_metadata_pp_rank_N.json`.
    :param ranks: number of tensor-parallel ranks.
    :raises ValueError: if the metadata is invalid or is for another number of ranks.
    """

    def __init__(self, metadata: Any, ranks: int) -> None:
        self._ranks = ranks
        self._partition_dims = {
            _saved_name(name): self._dimension(name, how) for name, how in metadata["parameters"].items()
        }
        self._transformed: dict[str, _Parts] = {}
        for specs in metadata["model_weight_transformation_specs"]:
            for kind, spec in specs["specs"]:
                self._add(kind, specs["module_fully_qualified_name"], spec)

    @property
    def names(self) -> frozenset[str]:
        """Names under which this pipeline rank's parameters may be saved."""
        return frozenset(self._partition_dims)

    def parts(self, name: str, shape: tuple[int, ...]) -> list[Part]:
        """The parts in the ranks' tensors of a name.

        :param shape: shape of each rank's tensor.
        :raises ValueError: if the tensor cannot have this shape.
        """
        if name in self._transformed:
            return self._transformed[name](shape)
        return [self._split(name, self._partition_dims[name], shape)]

    def _dimension(self, name: str, how: Mapping[str, Any]) -> int | None:
        if not how["tensor_model_parallel"]:
            return None
        ranks, dimension = how["num_partitions"], how["partition_dim"]
        if ranks != self._ranks or type(dimension) is not int or dimension not in (0, 1):
            raise ValueError(f"{name} is sharded for {ranks} ranks in dimension {dimension}")
        return dimension

    def _add(self, kind: str, module: str, spec: Mapping[str, Any]) -> None:
        if spec["tp_size"] != self._ranks or spec["bias"]:
            raise ValueError(f"{module} is sharded for {spec['tp_size']} ranks or has a bias")
        if kind == "FusedLinearsSpec" and spec["fuse_axis"] == 0:
            self._add_fused(module, spec)
        elif kind == "GQAQKVColumnParallelLinearSpec":
            self._add_heads(module, spec)
        else:
            raise ValueError(f"{module} has the unknown transformation {kind}")

    def _add_fused(self, module: str, spec: Mapping[str, Any]) -> None:
        fused, members = _named(module, spec["fused_linear_name"]), [_named(module, n) for n in spec["linear_names"]]
        lengths = [length // self._ranks for length in spec["original_dims"]]
        for infix in ("", ".lora_B"):
            parts = [f"{member}{infix}.weight" for member in members]
            self._transformed[f"{fused}{infix}.weight"] = partial(self._concatenated, parts, lengths)
        self._transformed[f"{fused}.lora_A.weight"] = partial(
            self._shared, [f"{member}.lora_A.weight" for member in members]
        )

    def _add_heads(self, module: str, spec: Mapping[str, Any]) -> None:
        heads = _HeadLayout(spec, self._ranks)
        names = [_named(module, spec[f"{member}_projection_name"]) for member in ("query", "key", "value")]
        fused, output = (_named(module, spec[f"{member}_projection_name"]) for member in ("gqa_qkv", "output"))
        for infix in ("", ".lora_B"):
            query, key, value = (f"{name}{infix}.weight" for name in names)
            self._transformed[f"{fused}{infix}.weight_qkv"] = partial(heads.fused, query, key, value)
            self._transformed[f"{fused}{infix}.weight_q"] = partial(heads.queries, query)
            self._transformed[f"{fused}{infix}.weight_k"] = partial(heads.keys_or_values, key)
            self._transformed[f"{fused}{infix}.weight_v"] = partial(heads.keys_or_values, value)
        self._transformed[f"{fused}.lora_A.weight"] = partial(self._shared, [f"{name}.lora_A.weight" for name in names])
        for name in (f"{output}.weight", f"{output}.lora_A.weight"):
            self._transformed[name] = partial(heads.queries, name, dimension=1)

    def _shared(self, names: Sequence[str], shape: tuple[int, ...]) -> list[Part]:
        return [self._split(name, None, shape) for name in names]

    def _split(self, name: str, dimension: int | None, shape: tuple[int, ...]) -> Part:
        if dimension is None:
            segment = Segment(0, shape[0] if shape else 1, 0)
            return Part(name, 0, ((segment,),) * self._ranks, owners=1)
        return self._split_evenly(name, dimension, 0, shape[dimension])

    def _concatenated(self, names: Sequence[str], lengths: Sequence[int], shape: tuple[int, ...]) -> list[Part]:
        if shape[0] != sum(lengths):
            raise ValueError(f"it has {shape[0]} rows, but its parts have {sum(lengths)}")
        begins = [sum(lengths[:number]) for number in range(len(lengths))]
        return [
            self._split_evenly(name, 0, begin, length)
            for name, begin, length in zip(names, begins, lengths, strict=True)
        ]

    def _split_evenly(self, name: str, dimension: int, begin: int, length: int) -> Part:
        segments = tuple((Segment(begin, length, rank * length),) for rank in range(self._ranks))
        return Part(name, dimension, segments, owners=self._ranks)


class _HeadLayout:
    """The order of heads across ranks if key-value heads are replicated so that every rank has some.

    :raises ValueError: if the numbers of heads and ranks are inconsistent.
    """

    def __init__(self, spec: Mapping[str, Any], ranks: int) -> None:
        self._ranks, self._copies = ranks, spec["kv_size_multiplier"]
        self._query_heads, self._key_heads = spec["num_attention_heads"], spec["num_key_value_heads"]
        self._query_rows, self._key_rows = spec["q_output_size_per_partition"], spec["kv_output_size_per_partition"]
        repeated = self._key_heads * self._copies
        numbers = (self._ranks, self._copies, self._query_heads, self._key_heads, self._query_rows, self._key_rows)
        if (
            not all(type(number) is int and number > 0 for number in numbers)
            or self._query_heads % repeated
            or repeated % ranks
            or ranks % self._copies
            or self._query_rows * ranks % self._query_heads
        ):
            raise ValueError(
                f"{self._query_heads} query heads and {repeated} key heads do not divide among {ranks} ranks"
            )

    def fused(self, query: str, key: str, value: str, shape: tuple[int, ...]) -> list[Part]:
        """A tensor with the rows of queries, keys and values, in this order."""
        _check_length(shape[0], self._query_rows + 2 * self._key_rows)
        return [
            self._queries(query, 0, 0),
            self._keys_or_values(key, self._query_rows),
            self._keys_or_values(value, self._query_rows + self._key_rows),
        ]

    def queries(self, name: str, shape: tuple[int, ...], dimension: int = 0) -> list[Part]:
        """A tensor in the order of the query heads: their rows, or the columns of the output projection."""
        _check_length(shape[dimension], self._query_rows)
        return [self._queries(name, dimension, 0)]

    def keys_or_values(self, name: str, shape: tuple[int, ...]) -> list[Part]:
        """A tensor with the rows of key or value heads."""
        _check_length(shape[0], self._key_rows)
        return [self._keys_or_values(name, 0)]

    def _queries(self, name: str, dimension: int, begin: int) -> Part:
        head_rows = self._query_rows * self._ranks // self._query_heads
        segments = tuple(
            tuple(
                Segment(begin + place * head_rows, count * head_rows, head * head_rows)
                for place, head, count in self._groups(rank)
            )
            for rank in range(self._ranks)
        )
        return Part(name, dimension, segments, owners=self._ranks)

    def _groups(self, rank: int) -> Iterable[tuple[int, int, int]]:
        """A rank's groups of query heads, one per key-value head: position in the rank, first head, number of heads."""
        of_key = self._query_heads // self._key_heads
        count = of_key // self._copies
        key_heads = self._key_heads * self._copies // self._ranks
        for number in range(key_heads):
            copy, key = divmod(rank * key_heads + number, self._key_heads)
            yield number * count, key * of_key + copy * count, count

    def _keys_or_values(self, name: str, begin: int) -> Part:
        owners = self._ranks // self._copies
        segments = tuple(
            (Segment(begin, self._key_rows, rank % owners * self._key_rows),) for rank in range(self._ranks)
        )
        return Part(name, 0, segments, owners)


def _check_length(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"it has {found} rows or columns of heads, but its metadata specifies {expected}")


def _saved_name(name: str) -> str:
    """The saved name of a parameter, which lacks the adapter's name."""
    return _ADAPTER_NAME.sub(r"\1", _checked(name))


def _named(module: str, name: str) -> str:
    return _checked(f"{module}.{name}")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid parameter name")
    return name
