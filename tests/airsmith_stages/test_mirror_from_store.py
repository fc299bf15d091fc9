"""Mirroring a base model from a folder of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.artifacts.listing import listing_digest
from airsmith.errors import ErrorKind
from tests.support.data_stages import DataStages, assert_refused
from tests.support.dataset_files import write_files
from tests.support.stage_runs import contents, output_of

MODEL = {
    "config.json": b'{"model_type": "llama"}\n',
    "model.safetensors": bytes(range(256)),
    "sub/notes.txt": b"kept\n",
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"file://{write_files(tmp_path / 'source', MODEL)}"


def test_a_folder_is_copied(data_stages: DataStages, source: str) -> None:
    run = data_stages.new_run(model={"id": source, "revision": listing_digest(source)})
    result = data_stages.run_command("mirror_model", run)
    assert result.returncode == 0, result.stderr
    assert contents(output_of(run, "mirror_model")) == MODEL


def test_a_folder_that_has_changed_is_refused(data_stages: DataStages, source: str, tmp_path: Path) -> None:
    run = data_stages.new_run(model={"id": source, "revision": listing_digest(source)})
    (tmp_path / "source/config.json").write_text("{}")
    result = data_stages.run_command("mirror_model", run)
    assert_refused(result, run, "mirror_model", ErrorKind.BAD_DATA, source, "has changed")


def test_a_missing_folder_is_refused(data_stages: DataStages, tmp_path: Path) -> None:
    run = data_stages.new_run(model={"id": f"file://{tmp_path}/nowhere", "revision": "listing-0"})
    result = data_stages.run_command("mirror_model", run)
    assert_refused(result, run, "mirror_model", ErrorKind.NOT_FOUND, f"{tmp_path}/nowhere", "URI")
