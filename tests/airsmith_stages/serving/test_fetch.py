"""A pod's copy of a model is whole and verified, or the pod says why there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from machine import Machine

from airsmith.errors import AirsmithError, ErrorKind


def fetch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airsmith_stages.serving.fetch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_artifact_goes_to_its_folder(machine: Machine, tmp_path: Path):
    for name in ("one", "two"):
        machine.run(name)
    ended = fetch(machine.store.uri, "artifacts/model/one", tmp_path / "a", "artifacts/model/two", tmp_path / "b/c")
    assert ended.returncode == 0, ended.stderr
    assert [(tmp_path / folder / "name.txt").read_text() for folder in ("a", "b/c")] == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda file: file.write_text("eno"), ErrorKind.VERIFICATION_FAILED, "name.txt"),
        (lambda file: (file.parents[1] / "manifest.json").unlink(), ErrorKind.NOT_FOUND, "There is no model"),
    ],
)
def test_the_last_line_says_why_there_is_no_copy(machine: Machine, tmp_path: Path, change, kind: ErrorKind, says: str):
    machine.run("one")
    (file,) = machine.folder.glob("store/artifacts/model/one/attempt=*/name.txt")
    file.chmod(0o644)
    change(file)
    ended = fetch(machine.store.uri, "artifacts/model/one", tmp_path / "a")
    error = AirsmithError.from_json_line(ended.stderr.strip().rpartition("\n")[2])
    assert ended.returncode == 1
    assert error is not None
    assert error.kind is kind
    assert says in error.message
    assert not (tmp_path / "a/name.txt").exists()


def test_an_artifact_without_a_folder_is_refused(machine: Machine):
    ended = fetch(machine.store.uri, "artifacts/model/one")
    assert ended.returncode == 2
    assert "no folder is given for artifacts/model/one" in ended.stderr
