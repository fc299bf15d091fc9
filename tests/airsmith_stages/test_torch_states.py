"""Tensors of a saved state are located by name, as are references to tensors in other files; all else is refused."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.torch_files import SavedTensor, TensorReference, find_state
from airsmith_stages.weights.readers import FolderReader
from tests.support.torch_xla_files import TensorReference as Reference
from tests.support.torch_xla_files import save_references


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def found_in(path: Path) -> dict[str, SavedTensor | TensorReference]:
    return find_state(FolderReader(path.parent), path.name, path.stat().st_size)


def refusal(path: Path) -> str:
    with pytest.raises(AirsmithError) as refused:
        found_in(path)
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert refused.value.hint
    return refused.value.message


def check_found(path: Path, state: dict[str, torch.Tensor]) -> None:
    found, content = found_in(path), path.read_bytes()
    assert list(found) == list(state)
    for name, tensor in state.items():
        place = found[name]
        assert isinstance(place, SavedTensor)
        assert place.shape == tuple(tensor.shape)
        expected = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert content[place.begin : place.begin + len(expected)] == expected, name


def test_every_tensor_of_a_state_is_found(tmp_path: Path) -> None:
    state = {
        f"layers.{n}.weight": torch.randn(n + 1, 7).to(torch.bfloat16 if n % 2 else torch.float32) for n in range(9)
    }
    torch.save(state, tmp_path / "state.pt")
    check_found(tmp_path / "state.pt", state)


def test_the_state_of_a_module_is_accepted(tmp_path: Path) -> None:
    """It is an ordered dictionary with additional attributes."""
    state = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).state_dict()
    assert isinstance(state, OrderedDict)
    assert state._metadata  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "state.pt")
    check_found(tmp_path / "state.pt", dict(state))


def test_tensors_that_share_storage_have_one_location(tmp_path: Path) -> None:
    tensor = torch.randn(4, 3)
    torch.save({"embedding": tensor, "head": tensor, "rows": tensor[1:3]}, tmp_path / "state.pt")
    check_found(tmp_path / "state.pt", {"embedding": tensor, "head": tensor, "rows": tensor[1:3]})
    found = found_in(tmp_path / "state.pt")
    assert found["embedding"] == found["head"]


def test_references_are_found(tmp_path: Path) -> None:
    save_references({"b": Reference(1), "a": Reference(0)}, tmp_path / "state.pt")
    assert found_in(tmp_path / "state.pt") == {"b": TensorReference(1), "a": TensorReference(0)}


@pytest.mark.parametrize("number", [-1, 2**40, "0", 1.0, True, None, "../../secret"])
def test_a_reference_that_is_not_a_valid_number_is_refused(tmp_path: Path, number: object) -> None:
    save_references({"a": Reference(number)}, tmp_path / "state.pt")
    assert "state.pt is not a readable" in refusal(tmp_path / "state.pt")


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [torch.zeros(3)], {0: torch.zeros(3)}, {"a": 1}, {"a": {"b": torch.zeros(3)}}, {"a": "b"}, None],
    ids=["tensor", "list", "number as name", "number", "nested", "text", "nothing"],
)
def test_anything_but_a_mapping_of_names_to_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "state.pt")
    assert "state.pt is not a readable torch file" in refusal(tmp_path / "state.pt")


def test_code_in_a_state_is_reported_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3), "b": Canary(tmp_path / "ran")}, tmp_path / "state.pt")
    assert "it names posix.mkdir" in refusal(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the canary itself must work"


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save({"a": nn.Linear(2, 2)}, tmp_path / "state.pt")
    assert "it names torch.nn.modules.linear.Linear" in refusal(tmp_path / "state.pt")


def test_compressed_elements_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(300)}, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as stored,
        zipfile.ZipFile(tmp_path / "state.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert "its elements are compressed" in refusal(tmp_path / "state.pt")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3000)}, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(content), 997):
        (tmp_path / "state.pt").write_bytes(content[:length])
        assert "state.pt is not a readable" in refusal(tmp_path / "state.pt")
