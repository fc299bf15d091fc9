"""Mirroring a model, compared with `hf download` followed by `aws s3 sync`, over two links of the same bandwidth.

`python -m benchmarks.mirror [MEGABYTES_PER_SECOND]` (default: 40)

The upper bound is twice the speed: the peers use one link after the other, the stage both at once. The S3 server is
MinIO (`minio` on the path, or the program in MINIO).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import obstore
from obstore.store import S3Store

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from benchmarks.arms import MEBIBYTE, Arm, Measured, measure, paired_ratio, scratch_folder
from benchmarks.claims import Goal, report
from benchmarks.s3_server import CREDENTIALS, s3_server
from benchmarks.stage_runs import write_spec

OURS, PEERS = "airsmith", "hf download, then aws s3 sync"
MODEL_ID = "benchmark/model"
BUCKET = "benchmark"
FILE_MEGABYTES = {"model-00001-of-00003.safetensors": 600, "model-00002-of-00003.safetensors": 200} | {
    f"part-{index}.safetensors": 20 for index in range(10)
}
_PEER_PROGRAMS = Path(".venvs/benchmarks/bin").absolute()


def main() -> None:
    """Measure, and write the report."""
    megabytes_per_second = float(sys.argv[1]) if len(sys.argv) > 1 else 40.0
    folder = scratch_folder() / "mirror"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        commit = _publish(folder)
        with s3_server(folder / "s3") as s3_port, _links(folder, s3_port, megabytes_per_second) as links:
            os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{s3_port}")
            _create_bucket(folder)
            runs = measure([_ours(folder, links, commit), _peers(folder, links, commit)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    size_bytes = sum(FILE_MEGABYTES.values()) * 10**6
    report(
        "mirror",
        f"Mirror {size_bytes / 1e9:.1f} GB from a Hub to S3, each link {megabytes_per_second:g} MB/s",
        runs,
        _goals(runs),
        bytes=size_bytes,
        files=len(FILE_MEGABYTES),
        bytes_per_second_of_each_link=megabytes_per_second * 1e6,
        seconds_of_one_link=size_bytes / (megabytes_per_second * 1e6),
    )


def _goals(runs: dict[str, list[Measured]]) -> list[Goal]:
    return [
        Goal("speed relative to the peers (2 is the upper bound)", paired_ratio(runs[PEERS], runs[OURS]), least=1.8),
        Goal("peak MiB", max(one.peak_rss_bytes for one in runs[OURS]) / MEBIBYTE, most=256),
        Goal("MiB written to disk", max(one.written_bytes for one in runs[OURS]) / MEBIBYTE, most=1),
    ]


def _publish(folder: Path) -> str:
    """Publish a model to the local Hub in a new process: an arm's peak memory is at least that of this process.

    :returns: the commit id.
    """
    program = (
        "import os, pathlib, sys; from demo.hub.repository import publish; from benchmarks.mirror import *\n"
        "folder = pathlib.Path(sys.argv[1]); (folder / 'model').mkdir()\n"
        "(folder / 'model' / 'config.json').write_text('{}')\n"
        "for name, megabytes in FILE_MEGABYTES.items():\n"
        "    (folder / 'model' / name).write_bytes(os.urandom(megabytes * 10**6))\n"
        "print(publish(folder / 'hub', 'model', MODEL_ID, folder / 'model'))"
    )
    made = subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True, text=True)
    shutil.rmtree(folder / "model")
    return made.stdout.strip()


@contextmanager
def _links(folder: Path, s3_port: int, megabytes_per_second: float) -> Iterator[dict[str, str]]:
    """The addresses of the Hub and of S3, each behind its link."""
    command = [sys.executable, "-m", "benchmarks.mirror_servers", str(folder / "hub"), str(s3_port)]
    command.append(str(megabytes_per_second))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdout is not None
        yield json.loads(servers.stdout.readline())
        servers.communicate()


def _create_bucket(folder: Path) -> None:
    """Create a bucket, which for MinIO is a folder on its disk."""
    (folder / "s3" / BUCKET).mkdir(exist_ok=True)


def _ours(folder: Path, links: dict[str, str], commit: str) -> Arm:
    run = Run(Store.open(f"s3://{BUCKET}/ours"), "runs/benchmark/mirror")
    return Arm(
        OURS,
        [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri],
        before=partial(_prepare, run, commit),
        after=partial(_check, run),
        environment={"HF_ENDPOINT": links["hub"], "AWS_ENDPOINT_URL": links["s3"]},
    )


def _prepare(run: Run, commit: str) -> None:
    _empty_bucket()
    dataset = {"id": "benchmark/data", "validation_split": "validation"}
    write_spec(run, "mirror_model", {"id": MODEL_ID, "revision": commit}, dataset)


def _check(run: Run) -> None:
    pointer = run.pointer("mirror_model")
    artifact = open_artifact(run.store, pointer.location) if pointer else None
    if artifact is None or len(artifact.names()) != len(FILE_MEGABYTES) + 1:
        raise RuntimeError("The model was not mirrored.")


def _peers(folder: Path, links: dict[str, str], commit: str) -> Arm:
    download, target = folder / "download", f"s3://{BUCKET}/theirs"
    commands = (
        f"{_PEER_PROGRAMS}/hf download {MODEL_ID} --revision {commit} --local-dir {download}",
        f"{_PEER_PROGRAMS}/aws s3 sync --only-show-errors --exclude '.cache/*' {download} {target}",
    )
    return Arm(
        PEERS,
        ["sh", "-c", " && ".join(commands)],
        before=partial(_clean, download),
        after=partial(_check_objects, "theirs"),
        environment={
            "HF_ENDPOINT": links["hub"],
            "AWS_ENDPOINT_URL": links["s3"],
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
    )


def _clean(download: Path) -> None:
    shutil.rmtree(download, ignore_errors=True)
    _empty_bucket()


def _check_objects(prefix: str) -> None:
    found = [info for page in obstore.list(_bucket(), prefix) for info in page]
    if sum(info["size"] for info in found) < sum(FILE_MEGABYTES.values()) * 10**6:
        raise RuntimeError(f"{prefix} does not contain the model.")


def _empty_bucket() -> None:
    for page in obstore.list(_bucket()):
        for info in page:
            obstore.delete(_bucket(), info["path"])


def _bucket() -> S3Store:
    return S3Store(BUCKET, client_options={"allow_http": True}, disable_bulk_delete=True)


if __name__ == "__main__":
    main()
