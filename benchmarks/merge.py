"""Merging a LoRA adapter, compared with peft and with a plain copy of the base, which is the lower bound.

`python -m benchmarks.merge [GIGABYTES]` (default: 2.1; only this size is compared with peft)

If MinIO is installed (`minio` on the path, or the program in MINIO), the merge in a bucket is measured as well, for its
peak memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import FolderReader
from benchmarks.arms import MEBIBYTE, Arm, Measured, measure, paired_ratio, scratch_folder
from benchmarks.claims import Goal, report
from benchmarks.s3_server import CREDENTIALS, minio_program, s3_server

COPY, PLAIN, VERIFIED, PEFT = "cp -r", "airsmith, nothing hashed", "airsmith, verified and hashed", "peft"
ON_S3 = "airsmith, verified and hashed, S3 to S3"
WITH_PEFT_GIGABYTES = 2.1
_BUCKET = "models"
_BASE, _MERGED = "artifacts/base_model/base", "artifacts/model/merged"


def main() -> None:
    """Measure one size, and write the report."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else WITH_PEFT_GIGABYTES
    with_peft = gigabytes == WITH_PEFT_GIGABYTES
    folder = scratch_folder() / "merge"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run("merge" if with_peft else f"merge_{gigabytes:g}gb", folder, int(gigabytes * 1e9), with_peft)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(claim: str, folder: Path, size_bytes: int, with_peft: bool) -> None:
    base, adapter, store = folder / "base", folder / "adapter", Store.open(f"file://{folder}/store")
    # In its own process: the peak memory of an arm is at least the memory of the process that starts it.
    inputs = [sys.executable, "-m", "benchmarks.merge_inputs", str(base), str(adapter), str(size_bytes)]
    base_bytes = int(subprocess.run(inputs, check=True, capture_output=True, text=True).stdout)
    with _s3_arm(folder, base, adapter) as on_s3:
        arms = [*_arms(folder, base, adapter, store, with_peft), *on_s3]
        runs = measure(arms, repetitions=5 if with_peft else 3)
    facts = {"base_bytes": base_bytes, "files": 5, "dtype": "bfloat16", "rank": 16}
    if with_peft:
        facts |= _compare(folder / "merged", folder / "by_peft")
    report(claim, f"Merge {base_bytes / 1e9:.1f} GB, bfloat16, rank 16", runs, _goals(runs, facts), **facts)


def _arms(folder: Path, base: Path, adapter: Path, store: Store, with_peft: bool) -> list[Arm]:
    """All arms, Airsmith's first. The base is in a folder and, as hard links, in an artifact."""
    _link_artifact(store, base)
    program = [sys.executable, "-m", "benchmarks.merge_arms"]
    outputs = {COPY: folder / "copy", PLAIN: folder / "merged", PEFT: folder / "by_peft"}
    clean = {name: partial(shutil.rmtree, output, ignore_errors=True) for name, output in outputs.items()}
    arms = [
        Arm(
            VERIFIED,
            [*program, "artifact_to_artifact", store.uri, _BASE, str(adapter), _MERGED],
            before=partial(shutil.rmtree, folder / "store" / _MERGED, ignore_errors=True),
            after=partial(_check, store),
        ),
        Arm(
            PLAIN,
            [*program, "folder_to_folder", str(base), str(adapter), str(outputs[PLAIN])],
            before=clean[PLAIN],
        ),
        Arm(COPY, ["cp", "-r", str(base), str(outputs[COPY])], before=clean[COPY], after=clean[COPY]),
    ]
    if with_peft:
        arms.append(Arm(PEFT, [*program, "peft", str(base), str(adapter), str(outputs[PEFT])], before=clean[PEFT]))
    return arms


@contextmanager
def _s3_arm(folder: Path, base: Path, adapter: Path) -> Iterator[list[Arm]]:
    """The merge in a bucket; no arm if MinIO is not installed."""
    if minio_program() is None:
        yield []
        return
    disk = folder / "s3"
    (disk / _BUCKET).mkdir(parents=True)
    with s3_server(disk) as port:
        environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        program, uri = [sys.executable, "-m", "benchmarks.merge_arms"], f"s3://{_BUCKET}"
        upload = [*program, "folder_to_artifact", str(base), uri, _BASE]
        subprocess.run(upload, check=True, env={**os.environ, **environment})
        merge = [*program, "artifact_to_artifact", uri, _BASE, str(adapter), _MERGED]
        # Removing the folder on MinIO's disk deletes the previous output at once.
        before = partial(shutil.rmtree, disk / _BUCKET / _MERGED, ignore_errors=True)
        yield [Arm(ON_S3, merge, before=before, environment=environment)]


def _link_artifact(store: Store, base: Path) -> None:
    with write_artifact(store, _BASE, type="base_model", digest="base", inputs={}, versions={}) as writer:
        writer.add_folder(base)
        artifact = writer.publish()
    for file in base.iterdir():
        published = Path(store.uri.removeprefix("file://")) / artifact.path(file.name)
        published.unlink()
        published.hardlink_to(file)


def _check(store: Store) -> None:
    if open_artifact(store, _MERGED) is None:
        raise RuntimeError("No artifact was published.")


def _goals(runs: dict[str, list[Measured]], facts: dict[str, int | str]) -> list[Goal]:
    ours = [one for name in (VERIFIED, PLAIN, ON_S3) for one in runs.get(name, ())]
    goals = [
        Goal("time relative to cp, nothing hashed", paired_ratio(runs[PLAIN], runs[COPY]), most=1.25),
        Goal("time relative to cp, verified and hashed", paired_ratio(runs[VERIFIED], runs[COPY]), most=1.6),
        Goal("peak MiB", max(one.peak_rss_bytes for one in ours) / MEBIBYTE, most=128),
    ]
    if "differing_elements" in facts:
        share = int(facts["differing_elements"]) / int(facts["elements"])
        goals.append(Goal("share of elements that differ from peft's", share, most=1e-6))
        goals.append(Goal("largest difference in units of the last place", int(facts["largest_ulps"]), most=1))
    return goals


def _compare(ours: Path, theirs: Path) -> dict[str, int]:
    """Count the elements whose bits differ."""
    mine, other = open_weights(FolderReader(ours)), open_weights(FolderReader(theirs))
    if mine.tensors().keys() != other.tensors().keys():
        raise RuntimeError("The merged models have different tensors.")
    elements = differing = largest = 0
    for name in mine.tensors():
        bits, expected = (np.frombuffer(weights.read(name), np.int16) for weights in (mine, other))
        ulps = np.abs(bits.astype(np.int32) - expected)
        elements += ulps.size
        differing += int(np.count_nonzero(ulps))
        largest = max(largest, int(ulps.max()))
    return {"elements": elements, "differing_elements": differing, "largest_ulps": largest}


if __name__ == "__main__":
    main()
