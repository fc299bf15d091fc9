"""Reading a checkpoint's pickle runs no code, whatever it requests."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.torch_files import find_tensor, read_metadata
from airsmith_stages.weights.readers import FolderReader


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_reported_and_not_run(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"state_dict_metadata": Canary(tmp_path / "ran")}, protocol)
    with pytest.raises(AirsmithError, match=r"\.metadata is not a readable .*: it names posix\.mkdir") as refused:
        read_metadata(".metadata", content)
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists(), "the canary itself must work"


def test_code_in_the_file_of_a_tensor_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": Canary(tmp_path / "ran")}, tmp_path / "file")
    with pytest.raises(AirsmithError, match=r"it names posix\.mkdir"):
        find_tensor(FolderReader(tmp_path), "file", 0, (tmp_path / "file").stat().st_size)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "os system", "torch load", "torch.nn.modules.linear Linear", "pathlib Path.unlink"]
)
def test_a_global_outside_the_allowlist_is_refused(name: str) -> None:
    module, _, attribute = name.partition(" ")
    content = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(AirsmithError, match=f"it names {module}.{attribute}"):
        read_metadata(".metadata", content)


def test_a_pickle_cannot_modify_an_allowed_function() -> None:
    changed = b"\x80\x02ctorch\nSize\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
    with pytest.raises(AirsmithError, match="it modifies a function"):
        read_metadata(".metadata", changed)


def test_a_size_declared_in_a_pickle_is_not_allocated() -> None:
    tracemalloc.start()
    read_metadata(".metadata", b"\x80\x02Nr\xff\xff\xff\x0f.")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.uint16,
     torch.float8_e4m3fn],
)  # fmt: skip
def test_the_elements_of_a_saved_tensor_are_found(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    torch.save(tensor, tmp_path / "alone")
    content = (tmp_path / "alone").read_bytes()
    (tmp_path / "file").write_bytes(b"before" + content + b"after")
    found = find_tensor(FolderReader(tmp_path), "file", len(b"before"), len(content))
    assert found.shape == (2, 3, 4)
    expected = tensor.view(torch.uint8).numpy().tobytes()
    assert (tmp_path / "file").read_bytes()[found.begin : found.begin + len(expected)] == expected


def test_a_slice_of_a_larger_storage_is_found(tmp_path: Path) -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(6, 4)[2:4]
    torch.save(tensor, tmp_path / "file")
    found = find_tensor(FolderReader(tmp_path), "file", 0, (tmp_path / "file").stat().st_size)
    expected = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    assert (tmp_path / "file").read_bytes()[found.begin : found.begin + len(expected)] == expected


def test_a_tensor_that_is_not_contiguous_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(4, 6).T, tmp_path / "file")
    with pytest.raises(AirsmithError, match=r"file is not a readable .* not contiguous"):
        find_tensor(FolderReader(tmp_path), "file", 0, (tmp_path / "file").stat().st_size)
