"""Consolidate one artifact into another, from store to store, with verified reads and hashed output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event

from airsmith.artifacts.objects import Piece
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact
from airsmith_stages.consolidating.assembly import consolidate
from airsmith_stages.consolidating.checkpoint import ShardedCheckpoint
from airsmith_stages.consolidating.replicas import Spread, spread_of
from airsmith_stages.weights.readers import ArtifactReader, FileReader


@dataclass(frozen=True)
class Consolidated:
    """Result of a consolidation.

    :param tensors: number of tensors.
    :param spread: differences between replicas of the same tensor.
    """

    tensors: int
    spread: Spread


def consolidate_artifact(
    artifact: Artifact,
    read: Callable[[FileReader], ShardedCheckpoint],
    writer: ArtifactWriter,
    *,
    max_shard_bytes: int = 5 * 10**9,
    file: str | None = None,
) -> Consolidated:
    """Consolidate a published checkpoint into an artifact that the caller publishes.

    Chunks are read in the order of the tensors, not of the files, so a concurrent second read checks the hashes.

    :param read: reader of the checkpoint's format, such as `read_dcp`.
    :param file: name of the single file to write; None for the standard files of a model.
    :raises AirsmithError: `verification_failed` if a file is not what was published; `bad_data`.
    """
    checkpoint = read(ArtifactReader(artifact))
    stop = Event()
    with ThreadPoolExecutor(1) as thread:
        verified = thread.submit(_verify, artifact, _files(checkpoint), stop)
        try:
            count = consolidate(
                checkpoint,
                writer.add_stream if file is None else partial(_add_as, writer, file),
                max_shard_bytes=max_shard_bytes if file is None else sys.maxsize,
            )
            spread = spread_of(checkpoint)
            verified.result()
        finally:
            stop.set()
    return Consolidated(count, spread)


def _add_as(writer: ArtifactWriter, file: str, _: str, pieces: Iterable[Piece], size_bytes: int) -> None:
    writer.add_stream(file, pieces, size_bytes)


def _files(checkpoint: ShardedCheckpoint) -> list[str]:
    return sorted({chunk.file for tensor in checkpoint.tensors.values() for chunk in (*tensor.chunks, *tensor.copies)})


def _verify(artifact: Artifact, files: Iterable[str], stop: Event) -> None:
    for file in files:
        for _ in artifact.stream(file):
            if stop.is_set():
                return
