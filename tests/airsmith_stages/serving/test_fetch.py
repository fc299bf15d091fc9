"""`fetch` makes a complete and verified copy of a model, or reports why it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from tests.support.local_endpoints import LocalHost


def fetch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airsmith_stages.serving.fetch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_artifact_is_copied_to_its_folder(local_host: LocalHost, tmp_path: Path):
    for name in ("one", "two"):
        local_host.new_run(name)
    result = fetch(local_host.store.uri, "artifacts/model/one", tmp_path / "a", "artifacts/model/two", tmp_path / "b/c")
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / folder / "name.txt").read_text() for folder in ("a", "b/c")] == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda file: file.write_text("eno"), ErrorKind.VERIFICATION_FAILED, "name.txt"),
        (lambda file: (file.parents[1] / "manifest.json").unlink(), ErrorKind.NOT_FOUND, "does not exist"),
    ],
)
def test_the_last_line_of_a_failed_copy_has_the_reason(
    local_host: LocalHost, tmp_path: Path, change, kind: ErrorKind, message: str
):
    local_host.new_run("one")
    (file,) = local_host.folder.glob("store/artifacts/model/one/attempt=*/name.txt")
    file.chmod(0o644)
    change(file)
    result = fetch(local_host.store.uri, "artifacts/model/one", tmp_path / "a")
    error = AirsmithError.from_json_line(result.stderr.strip().rpartition("\n")[2])
    assert result.returncode == 1
    assert error is not None
    assert error.kind is kind
    assert message in error.message
    assert not (tmp_path / "a/name.txt").exists()


def test_an_artifact_without_a_folder_is_refused(local_host: LocalHost):
    result = fetch(local_host.store.uri, "artifacts/model/one")
    assert result.returncode == 2
    assert "no folder for artifact artifacts/model/one" in result.stderr
