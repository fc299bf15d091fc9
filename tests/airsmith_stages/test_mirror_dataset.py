"""The stage copies all files of a dataset except executable ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airsmith.artifacts.listing import listing_digest
from airsmith.errors import ErrorKind
from demo.hub.faults import CutConnection, WrongByte
from demo.hub.server import serve
from tests.support.data_stages import DATASET_ID, DataStages, assert_refused
from tests.support.dataset_files import write_files
from tests.support.stage_runs import contents, output_of

ROWS = b'{"messages": []}\n' * 100
DATASET = {"README.md": b"# Data\n", "data/train.jsonl": ROWS, "data/validation.jsonl": ROWS[:17]}


def test_the_command_copies_the_pinned_commit_over_a_broken_connection(data_stages: DataStages) -> None:
    commit = data_stages.publish_to_hub("dataset", DATASET_ID, DATASET)
    data_stages.publish_to_hub("dataset", DATASET_ID, {"train.jsonl": b"newer"})
    run = data_stages.new_run(dataset={"revision": commit})
    with serve(data_stages.hub_root, CutConnection("/_storage/*", offset=500)) as hub:
        command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_dataset", "--run", run.uri]
        result = subprocess.run(command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url}, check=False)
    assert result.returncode == 0, result.stderr
    artifact = output_of(run, "mirror_dataset")
    assert contents(artifact) == DATASET
    assert artifact.manifest.metrics == {"size_bytes": sum(map(len, DATASET.values()))}


def test_only_changed_files_of_a_new_commit_are_downloaded(data_stages: DataStages) -> None:
    first = {"README.md": b"# Data\n", "a.parquet": b"PAR1 a", "b.parquet": b"PAR1 b", "validation.jsonl": ROWS}
    second = {**first, "b.parquet": b"PAR1 B", "c.jsonl": ROWS[:34]}
    requests: list[list[str]] = []
    for files in (first, second):
        run = data_stages.new_run(dataset={"revision": data_stages.publish_to_hub("dataset", DATASET_ID, files)})
        with serve(data_stages.hub_root) as hub:
            result = data_stages.run_command("mirror_dataset", run, environment={"HF_ENDPOINT": hub.url})
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_dataset")) == files
        requests.append([request for request in hub.requests if "/resolve/" in request])
    assert [len(each) for each in requests] == [4, 2]


def test_executable_files_are_not_copied(data_stages: DataStages) -> None:
    loader = {"data.py": b"raise SystemExit", "cache/rows.pkl": b"", "rows.pickle": b"", "rows.pt": b""}
    commit = data_stages.publish_to_hub("dataset", DATASET_ID, {**DATASET, **loader, ".gitattributes": b""})
    run = data_stages.new_run(dataset={"revision": commit})
    with serve(data_stages.hub_root) as hub:
        result = data_stages.run_command("mirror_dataset", run, environment={"HF_ENDPOINT": hub.url})
    assert result.returncode == 0, result.stderr
    assert contents(output_of(run, "mirror_dataset")) == DATASET


@pytest.mark.parametrize(
    ("files", "fault", "gated", "kind", "words"),
    [
        pytest.param({"load.py": b"1"}, (), False, ErrorKind.BAD_DATA, "no files", id="only code"),
        pytest.param(
            DATASET,
            (WrongByte("/_storage/*", times=9),),
            False,
            ErrorKind.VERIFICATION_FAILED,
            "sha256",
            id="wrong byte",
        ),
        pytest.param(DATASET, (), True, ErrorKind.ACCESS_DENIED, "secrets.hf_token", id="gated"),
    ],
)
def test_a_dataset_that_fails_to_copy_is_not_published(
    data_stages: DataStages,
    files: dict[str, bytes],
    fault: tuple[WrongByte, ...],
    gated: bool,
    kind: ErrorKind,
    words: str,
) -> None:
    commit = data_stages.publish_to_hub("dataset", DATASET_ID, files, gated=gated)
    run = data_stages.new_run(dataset={"revision": commit})
    with serve(data_stages.hub_root, *fault) as hub:
        result = data_stages.run_command("mirror_dataset", run, environment={"HF_ENDPOINT": hub.url})
    assert_refused(result, run, "mirror_dataset", kind, words)


def test_a_missing_dataset_is_reported_with_its_recipe_field(data_stages: DataStages) -> None:
    run = data_stages.new_run()
    with serve(data_stages.hub_root) as hub:
        result = data_stages.run_command("mirror_dataset", run, environment={"HF_ENDPOINT": hub.url})
    assert_refused(result, run, "mirror_dataset", ErrorKind.NOT_FOUND, DATASET_ID, "dataset.id")


def test_a_folder_of_a_store_is_copied(data_stages: DataStages, tmp_path: Path) -> None:
    uri = f"file://{write_files(tmp_path / 'source', DATASET)}"
    run = data_stages.new_run(dataset={"id": uri, "revision": listing_digest(uri)})
    result = data_stages.run_command("mirror_dataset", run)
    assert result.returncode == 0, result.stderr
    assert contents(output_of(run, "mirror_dataset")) == DATASET
