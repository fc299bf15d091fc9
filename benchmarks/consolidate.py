"""Consolidating a sharded checkpoint, compared with torch, accelerate and a plain copy, which is the lower bound.

`python -m benchmarks.consolidate [GIGABYTES]` (default: 2.2)
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith_stages.weights.header import Tensor
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import ArtifactReader, FileReader, FolderReader
from airsmith_stages.weights.shards import plan_shards
from benchmarks.arms import MEBIBYTE, Arm, Measured, measure, median_seconds, paired_ratio, scratch_folder
from benchmarks.claims import Goal, report
from benchmarks.consolidate_arms import MAX_SHARD_BYTES
from benchmarks.consolidate_inputs import RANKS, shapes

COPY = "cp -r"
DCP, HUGGING_FACE = "airsmith, .distcp, nothing hashed", "airsmith, safetensors shards, nothing hashed"
VERIFIED = "airsmith, .distcp, verified and hashed"
TORCH, ACCELERATE = "torch consolidate_safetensors_files", "accelerate merge-weights"
_CHECKPOINT, _WHOLE = "checkpoints/sharded/1", "artifacts/model/whole"
_ACCELERATE = Path(".venvs/benchmarks/bin/accelerate")


def main() -> None:
    """Measure, and write the report."""
    size_bytes = int(float(sys.argv[1] if len(sys.argv) > 1 else 2.2) * 1e9)
    folder = scratch_folder() / "consolidate"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _run(folder, size_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, size_bytes: int) -> None:
    inputs = [sys.executable, "-m", "benchmarks.consolidate_inputs", str(size_bytes)]
    subprocess.run([*inputs, folder / "dcp", folder / "hugging_face"], check=True)
    total_bytes = sum(2 * math.prod(shape) for shape in shapes(size_bytes).values())
    runs = measure(_arms(folder, size_bytes))
    title = f"Consolidate {total_bytes / 1e9:.1f} GB, bfloat16, from {RANKS} ranks"
    relative_to_copy = paired_ratio(runs[VERIFIED], runs[COPY])
    report(
        "consolidate", title, runs, _goals(runs),
        checkpoint_bytes=total_bytes, ranks=RANKS, verified_and_hashed_relative_to_cp=relative_to_copy,
    )  # fmt: skip


def _arms(folder: Path, size_bytes: int) -> list[Arm]:
    """All arms, Airsmith's first. The first run of each must produce the same tensors as Airsmith's."""
    dcp, hugging_face, output = folder / "dcp", folder / "hugging_face", folder / "output"
    store = Store.open(f"file://{folder}/store")
    _link_artifact(store, dcp)
    placed = _write_placement(folder / "placed.json", size_bytes)
    program = [sys.executable, "-m", "benchmarks.consolidate_arms"]
    commands = {
        VERIFIED: [*program, "artifact_to_artifact", store.uri, _CHECKPOINT, _WHOLE],
        DCP: [*program, "dcp_to_folder", str(dcp), str(output)],
        HUGGING_FACE: [*program, "hugging_face_to_folder", str(hugging_face), str(output), str(RANKS)],
        COPY: ["cp", "-r", str(hugging_face), str(output)],
        TORCH: [*program, "torch", str(hugging_face), str(output), str(placed)],
        ACCELERATE: [str(_ACCELERATE), "merge-weights", str(dcp), str(output)],
    }
    digests: dict[str, dict[str, str]] = {}
    written = folder / "store" / _WHOLE

    def clean() -> None:
        for path in (output, written):
            shutil.rmtree(path, ignore_errors=True)

    def check(name: str) -> None:
        if name != COPY:
            _check(digests, name, _published(store) if name == VERIFIED else FolderReader(output))
        clean()

    return [Arm(name, command, before=clean, after=partial(check, name)) for name, command in commands.items()]


def _link_artifact(store: Store, checkpoint: Path) -> None:
    """Publish a checkpoint whose files are hard links to those in the folder."""
    with write_artifact(store, _CHECKPOINT, type="checkpoint", digest="sharded", inputs={}, versions={}) as writer:
        writer.add_folder(checkpoint)
        artifact = writer.publish()
    for file in checkpoint.iterdir():
        published = Path(store.uri.removeprefix("file://")) / artifact.path(file.name)
        published.unlink()
        published.hardlink_to(file)


def _write_placement(file: Path, size_bytes: int) -> Path:
    """Write the output file number of each tensor for torch's function, with the same files as Airsmith's."""
    tensors = [(name, "BF16", shape) for name, shape in sorted(shapes(size_bytes).items())]
    shards = enumerate(plan_shards(tensors, MAX_SHARD_BYTES), start=1)
    file.write_text(json.dumps({tensor.name: number for number, shard in shards for tensor in shard.header.tensors}))
    return file


def _published(store: Store) -> FileReader:
    artifact = open_artifact(store, _WHOLE)
    if artifact is None:
        raise RuntimeError("No artifact was published.")
    return ArtifactReader(artifact)


def _check(digests: dict[str, dict[str, str]], name: str, output: FileReader) -> None:
    """After an arm's first run, compare its tensors with those of the first arm."""
    weights = open_weights(output)
    if name not in digests:
        digests[name] = {
            tensor.name: _digest(output, file, tensor)
            for file, header in weights.headers.items()
            for tensor in header.tensors
        }
    if digests[name] != next(iter(digests.values())):
        raise RuntimeError(f"The tensors of {name} differ from those of the first arm.")


def _digest(source: FileReader, file: str, tensor: Tensor) -> str:
    """Read in blocks: the peak memory of a child process is at least the memory of this process."""
    sha256 = hashlib.sha256()
    for begin in range(tensor.begin, tensor.end, MEBIBYTE):
        sha256.update(source.read_range(file, begin, min(MEBIBYTE, tensor.end - begin)))
    return sha256.hexdigest()


def _goals(runs: dict[str, list[Measured]]) -> list[Goal]:
    peer = min((TORCH, ACCELERATE), key=lambda name: median_seconds(runs[name]))
    ours = [measured for name in (VERIFIED, DCP, HUGGING_FACE) for measured in runs[name]]
    return [
        Goal("time relative to cp, .distcp", paired_ratio(runs[DCP], runs[COPY]), most=1.2),
        Goal("time relative to cp, safetensors shards", paired_ratio(runs[HUGGING_FACE], runs[COPY]), most=1.2),
        Goal(f"time relative to {peer}, .distcp", paired_ratio(runs[DCP], runs[peer]), most=1),
        Goal(f"time relative to {peer}, safetensors shards", paired_ratio(runs[HUGGING_FACE], runs[peer]), most=1),
        Goal("peak MiB", max(one.peak_rss_bytes for one in ours) / MEBIBYTE, most=128),
    ]


if __name__ == "__main__":
    main()
