"""Shards of several ranks are consolidated into one model, or refused with the name of the faulty file or tensor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.consolidating.artifacts import consolidate_artifact
from airsmith_stages.consolidating.assembly import assembled, consolidate
from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, ShardedTensor, check
from airsmith_stages.consolidating.dcp import METADATA, read_dcp
from airsmith_stages.consolidating.hugging_face import read_hugging_face
from airsmith_stages.weights.readers import FolderReader
from tests.support import torch_checkpoints

RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints by world size and format, and the same tensors unsharded."""
    folder = tmp_path_factory.mktemp("saved")
    subprocess.run([sys.executable, "-m", torch_checkpoints.__name__, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a checkpoint, so that a test can damage it."""
    return lambda form: Path(shutil.copytree(saved / form, tmp_path / form))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def read(saved: Path, ranks: int, form: str) -> ShardedCheckpoint:
    source = FolderReader(saved / str(ranks) / form)
    return read_dcp(source) if form == "dcp" else read_hugging_face(source, ranks)


def consolidated(checkpoint: ShardedCheckpoint, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        with (folder / name).open("wb") as file:
            assert sum(file.write(piece) for piece in pieces) == size_bytes

    count = consolidate(checkpoint, write, max_shard_bytes=300)
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert len(tensors) == count
    return tensors


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("form", ["dcp", "hugging_face", "parts"])
def test_the_consolidated_tensors_equal_those_that_were_sharded(
    saved: Path, tmp_path: Path, ranks: int, form: str
) -> None:
    expected = load_file(saved / "whole.safetensors")
    if form == "hugging_face":
        del expected["nothing"]
    if form == "parts":
        expected = {name: expected[name] for name in ("columns", "experts", "vector")}
    tensors = consolidated(read(saved, ranks, form), tmp_path / "whole")
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor), name
    index = json.loads((tmp_path / "whole/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())


def test_a_prefix_selects_a_part_of_a_state(saved: Path) -> None:
    checkpoint = read_dcp(FolderReader(saved / "2/dcp"), prefix="module.")
    assert set(checkpoint.tensors) == {"0.weight", "0.bias", "1.weight"}


@pytest.mark.parametrize("block_bytes", [8, 32, 100])
def test_large_rows_are_assembled_in_blocks(saved: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr("airsmith_stages.consolidating.assembly.BLOCK_BYTES", block_bytes)
    expected = load_file(saved / "whole.safetensors")
    checkpoint = read(saved, 4, "dcp")
    for name, tensor in checkpoint.tensors.items():
        pieces = list(assembled(checkpoint.source, tensor.shape, tensor.chunks, expected[name].element_size()))
        whole = expected[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert b"".join(bytes(piece) for piece in pieces) == whole
        assert all(len(piece) <= block_bytes for piece in pieces)


def published(store: Store, folder: Path) -> Artifact:
    with write_artifact(store, "checkpoints/a/7", type="checkpoint", digest="a", inputs={}, versions={}) as writer:
        writer.add_folder(folder)
        return writer.publish()


def consolidate_published(store: Store, checkpoint: Artifact) -> Artifact | None:
    with write_artifact(store, "artifacts/model/b", type="model", digest="b", inputs={}, versions={}) as writer:
        consolidate_artifact(checkpoint, read_dcp, writer)
        writer.publish()
    return open_artifact(store, "artifacts/model/b")


def test_an_artifact_is_consolidated_without_a_local_copy(saved: Path, store: Store) -> None:
    whole = consolidate_published(store, published(store, saved / "2/dcp"))
    assert whole is not None
    tensors, expected = load(whole.read("model.safetensors")), load_file(saved / "whole.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_an_artifact_with_a_flipped_bit_is_refused(saved: Path, store: Store, tmp_path: Path) -> None:
    checkpoint = published(store, saved / "2/dcp")
    (damaged,) = tmp_path.glob("store/checkpoints/a/7/*/__0_0.distcp")
    content = bytearray(damaged.read_bytes())
    (chunk, *_) = read_dcp(FolderReader(saved / "2/dcp")).tensors["experts"].chunks
    assert chunk.file == "__0_0.distcp"
    content[chunk.begin] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(AirsmithError, match=r"__0_0\.distcp of .* differs from the published content") as refused:
        consolidate_published(store, checkpoint)
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert open_artifact(store, "artifacts/model/b") is None
    assert not [path for path in (tmp_path / "store/artifacts").rglob("*") if path.is_file()]


def refusal(read: Callable[[], ShardedCheckpoint]) -> str:
    with pytest.raises(AirsmithError) as refused:
        check(read())
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert refused.value.hint
    return refused.value.message


class TestRefused:
    """Each is refused before anything is written."""

    def test_a_missing_file_of_a_rank(self, copy: Callable[[str], Path]) -> None:
        folder = copy("4/dcp")
        (folder / "__1_0.distcp").unlink()
        assert "__1_0.distcp, which contains a chunk of" in refusal(lambda: read_dcp(FolderReader(folder)))

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_a_missing_shard(self, copy: Callable[[str], Path], number: int) -> None:
        folder = copy("4/hugging_face")
        (folder / f"shard-{number:05d}-model-00001-of-00001.safetensors").unlink()
        message = refusal(lambda: read_hugging_face(FolderReader(folder), ranks=4))
        assert message == f"The checkpoint lacks the file of process {number} of 4."

    def test_a_missing_part_of_a_shard(self, copy: Callable[[str], Path]) -> None:
        folder = copy("4/parts")
        (folder / "shard-00004-model-00002-of-00003.safetensors").unlink()
        message = refusal(lambda: read_hugging_face(FolderReader(folder), ranks=4))
        assert message == "The checkpoint lacks part 2 of the file of process 4 of 4."

    def test_more_shards_than_ranks(self, saved: Path) -> None:
        message = refusal(lambda: read_hugging_face(FolderReader(saved / "4/hugging_face"), ranks=2))
        assert message == "shard-00004-model-00001-of-00001.safetensors belongs to none of the 2 processes."

    def test_a_shard_without_its_offsets(self, copy: Callable[[str], Path]) -> None:
        file = copy("4/hugging_face") / "shard-00003-model-00001-of-00001.safetensors"
        file.write_bytes(file.read_bytes().replace(b"DCP_SHARDING_INFO", b"dcp_sharding_info"))
        message = refusal(lambda: read_hugging_face(FolderReader(file.parent), ranks=4))
        assert message == f"{file.name} has no valid offsets for its chunks."

    def test_a_folder_without_shards(self, tmp_path: Path) -> None:
        message = refusal(lambda: read_hugging_face(FolderReader(tmp_path), ranks=4))
        assert message == "The checkpoint lacks the file of process 1 of 4."

    def test_metadata_with_a_wrong_dtype(self, copy: Callable[[str], Path]) -> None:
        file = copy("4/dcp") / METADATA
        content = file.read_bytes()
        assert b"bfloat16" in content
        file.write_bytes(content.replace(b"\x8c\x08bfloat16", b"\x8c\x07float16"))
        assert "contains BF16" in refusal(lambda: read_dcp(FolderReader(file.parent)))

    @pytest.mark.parametrize("place", ["../secret", "/etc/hosts", "a\\..\\b"])
    def test_metadata_that_refers_to_a_file_outside(self, copy: Callable[[str], Path], place: str) -> None:
        file = copy("4/dcp") / METADATA
        name = b"__1_0.distcp"
        content = file.read_bytes()
        assert name in content
        # Pickled names have a length of one byte; a replacement of the same length keeps the frames valid.
        file.write_bytes(content.replace(name, place.encode().ljust(len(name), b"_")))
        assert "is not a file in the same folder" in refusal(lambda: read_dcp(FolderReader(file.parent)))

    def test_an_incomplete_checkpoint(self, copy: Callable[[str], Path]) -> None:
        folder = copy("4/dcp")
        (folder / METADATA).unlink()
        assert "no .metadata" in refusal(lambda: read_dcp(FolderReader(folder)))

    @pytest.mark.parametrize("lost_bytes", [1, 100, 3000])
    def test_a_truncated_file(self, copy: Callable[[str], Path], lost_bytes: int) -> None:
        file = copy("4/dcp") / "__0_0.distcp"
        file.write_bytes(file.read_bytes()[:-lost_bytes])
        assert "__0_0.distcp" in refusal(lambda: read_dcp(FolderReader(file.parent)))

    def test_a_file_with_other_content(self, copy: Callable[[str], Path]) -> None:
        file = copy("4/dcp") / "__0_0.distcp"
        file.write_bytes(bytes(len(file.read_bytes())))
        assert "__0_0.distcp is not a readable torch file" in refusal(lambda: read_dcp(FolderReader(file.parent)))

    def test_a_checkpoint_without_tensors(self, saved: Path) -> None:
        message = refusal(partial(read_dcp, FolderReader(saved / "4/dcp"), prefix="optimizer."))
        assert message == "The checkpoint contains no tensor."

    @pytest.mark.parametrize(
        ("change", "expected_message"),
        [
            (lambda chunks: chunks[:-1], "a chunk is missing"),
            (lambda chunks: [*chunks, chunks[0]], "overlap"),
            (lambda chunks: [*chunks[:-1], replace(chunks[-1], offsets=(7, 0))], "exceeds the tensor's shape"),
            (lambda chunks: [*chunks[:-1], replace(chunks[-1], file="gone")], "gone, which contains a chunk"),
            (lambda chunks: [*chunks[:-1], replace(chunks[-1], begin=90)], "rows ends before the end of its chunk"),
            (lambda chunks: [*chunks[:-1], replace(chunks[-1], offsets=(4,))], "2 dimensions"),
        ],
        ids=["hole", "twice", "outside", "no file", "truncated", "dimensions"],
    )
    def test_chunks_that_do_not_make_up_the_tensor(
        self, tmp_path: Path, change: Callable[[list[Chunk]], list[Chunk]], expected_message: str
    ) -> None:
        (tmp_path / "rows").write_bytes(bytes(100))
        chunks = [Chunk((0, 0), (4, 3), "rows", 0), Chunk((4, 0), (4, 3), "rows", 48)]
        tensor = ShardedTensor("F32", (8, 3), tuple(change(chunks)))
        assert expected_message in refusal(lambda: ShardedCheckpoint(FolderReader(tmp_path), {"w": tensor}))

    def test_dtypes_that_differ_between_ranks(self, copy: Callable[[str], Path]) -> None:
        file = copy("4/hugging_face") / "shard-00002-model-00001-of-00001.safetensors"
        file.write_bytes(file.read_bytes().replace(b'"F16"', b'"I16"'))
        assert "columns is I16 in" in refusal(lambda: read_hugging_face(FolderReader(file.parent), ranks=4))
