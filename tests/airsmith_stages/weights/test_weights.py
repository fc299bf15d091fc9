"""Safetensors files are read by ranges, as the safetensors library reads them, and damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.weights.header import make_header, read_header
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import FolderReader
from airsmith_stages.weights.shards import index_of, plan_shards

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable())


@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(["F32", "BF16", "I64", "BOOL"]), SHAPES), min_size=1, max_size=6)
)
def test_a_header_survives_writing_and_reading(described):
    head, header = make_header([(name, *rest) for name, rest in described.items()], {"format": "pt"})
    size_bytes = header.tensors[-1].end
    content = head + bytes(size_bytes - len(head))
    found = read_header("a.safetensors", size_bytes, lambda offset, length: content[offset : offset + length])
    assert {tensor.name: tensor for tensor in found.tensors} == {tensor.name: tensor for tensor in header.tensors}
    assert found.metadata == {"format": "pt"}


def test_files_are_exchanged_with_the_safetensors_library(tmp_path: Path):
    rng = numpy.random.default_rng(0)
    arrays = {f"layer.{i}": rng.normal(size=(i, 4)).astype(numpy.float32) for i in range(4)}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    weights = open_weights(FolderReader(tmp_path))
    assert {name: weights.read(name) for name in arrays} == {name: a.tobytes() for name, a in arrays.items()}

    copy = tmp_path / "copy"
    copy.mkdir()
    shards = plan_shards([(t.name, t.dtype, t.shape) for t in weights.tensors().values()], max_bytes=64)
    for shard in shards:
        (copy / shard.file).write_bytes(
            shard.header_bytes + b"".join(weights.read(t.name) for t in shard.header.tensors)
        )
        assert (copy / shard.file).stat().st_size == shard.size_bytes
    index = index_of(shards)
    assert index is not None
    (copy / index[0]).write_bytes(index[1])
    assert json.loads(index[1])["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())
    found = {name: array for shard in shards for name, array in safetensors.numpy.load_file(copy / shard.file).items()}
    assert found.keys() == arrays.keys()
    assert all((found[name] == arrays[name]).all() for name in arrays)
    assert open_weights(FolderReader(copy)).tensors().keys() == arrays.keys()


def head(content: object) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


def entry(begin: int, end: int, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        head([]),
        head(b"{"),
        head(b"\xff\xfe"),
        head(b"[" * 100_000),
        head({"__metadata__": {"a": 1}}),
        head({"a": entry(0, 4)}),
        head({"a": entry(0, 4)}) + b"\0" * 5,
        head({"a": entry(4, 8)}) + b"\0" * 8,
        head({"a": entry(0, 4), "b": entry(0, 4)}) + b"\0" * 4,
        head({"a": entry(0, 4), "b": entry(2, 6)}) + b"\0" * 6,
        head({"a": entry(0, 4, shape=(2,))}) + b"\0" * 4,
        head({"a": entry(0, 4, shape=(-1,))}) + b"\0" * 4,
        head({"a": entry(0, 4, shape=(True,))}) + b"\0" * 4,
        head({"a": entry(0, 4, dtype="F4")}) + b"\0" * 4,
        head({"a": entry(0, 4, dtype=["F32"])}) + b"\0" * 4,
        head({"a": {**entry(0, 4), "pickle": "x"}}) + b"\0" * 4,
        head(b'{"a": %(e)s, "a": %(e)s}' % {b"e": json.dumps(entry(0, 4)).encode()}) + b"\0" * 4,
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(AirsmithError, match=r"^model\.safetensors ") as caught:
        open_weights(FolderReader(tmp_path))
    assert caught.value.kind is ErrorKind.BAD_DATA


@pytest.mark.parametrize(
    ("weight_map", "named"),
    [
        ({"a": "../model-1.safetensors"}, "index"),
        ({"a": "/etc/model-1.safetensors"}, "index"),
        ({"a": "model-1.bin"}, "index"),
        ({"a": "model-3.safetensors"}, "model-3"),
        ({"x": "model-1.safetensors"}, "index"),
        ({"a": "model-1.safetensors", "b": "model-1.safetensors"}, "index"),
        ({"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}, "index"),
        ({"a": "model-1.safetensors", "b": "model-2.safetensors", "a2": "twice.safetensors"}, "twice"),
        ({"a": 1}, "index"),
        ({}, "index"),
        ([], "index"),
    ],
)
def test_an_index_that_does_not_match_the_files_is_refused(tmp_path: Path, weight_map: object, named: str):
    array = numpy.zeros(2, numpy.float32)
    safetensors.numpy.save_file({"a": array}, tmp_path / "model-1.safetensors")
    safetensors.numpy.save_file({"b": array}, tmp_path / "model-2.safetensors")
    safetensors.numpy.save_file({"a2": array, "a": array}, tmp_path / "twice.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(AirsmithError, match=named) as caught:
        open_weights(FolderReader(tmp_path))
    assert caught.value.kind is ErrorKind.BAD_DATA
