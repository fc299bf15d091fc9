"""The checks that a pod makes before the stages run, on real stores and a real Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.folder import Folder
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.preflight import refuse_unfit_store, run_preflight
from demo.hub.server import Hub, serve
from tests.support.data_stages import DATASET_ID, MODEL_ID, DataStages


@pytest.fixture
def hub(data_stages: DataStages, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    data_stages.hub_root.mkdir()
    with serve(data_stages.hub_root) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def published(data_stages: DataStages, hub: Hub) -> dict[str, dict[str, str]]:
    """The pinned revisions of both sources, as fields of a recipe."""
    model = data_stages.publish_to_hub("model", MODEL_ID, {"config.json": b"{}", "model.safetensors": b"0"})
    dataset = data_stages.publish_to_hub("dataset", DATASET_ID, {"train.jsonl": b"{}"})
    return {"model": {"revision": model}, "dataset": {"revision": dataset}}


def test_a_passed_check_leaves_nothing_in_the_store(data_stages: DataStages, published: dict[str, Any]):
    run = data_stages.new_run(**published)
    run_preflight(run)
    assert [info.path for info in run.store.list("")] == [f"{run.path}/spec.json"]


def test_the_last_line_of_the_command_reports_every_problem(data_stages: DataStages, hub: Hub):
    result = data_stages.run_command("preflight", data_stages.new_run(), environment={"HF_ENDPOINT": hub.url})
    assert result.error.kind is ErrorKind.NOT_FOUND
    assert "2 checks failed" in result.error.message


def test_every_unreadable_source_is_reported(data_stages: DataStages, hub: Hub, tmp_path: Path):
    data_stages.publish_to_hub("model", MODEL_ID, {"config.json": b"{}"}, gated=True)
    with pytest.raises(AirsmithError, match="2 checks failed") as refused:
        run_preflight(data_stages.new_run(model={"revision": "main"}, dataset={"id": f"file://{tmp_path}/absent"}))
    assert f"{MODEL_ID} is gated" in str(refused.value)
    assert f"file://{tmp_path}/absent contains no files" in str(refused.value)


def test_a_mirrored_source_is_not_requested(data_stages: DataStages, hub: Hub, published: dict[str, Any]):
    mirrored = data_stages.run_command(
        "mirror_dataset", data_stages.new_run(**published), environment={"HF_ENDPOINT": hub.url}
    )
    assert mirrored.returncode == 0, mirrored.stderr
    hub.requests.clear()
    run_preflight(data_stages.new_run(**published))
    assert hub.requests
    assert not [request for request in hub.requests if DATASET_ID in str(request)]


class IgnoresConditions(Folder):
    """A store that treats a conditional put like any other."""

    def put_if_unchanged(self, path: str, data: bytes, expected: Any) -> bool:
        self.put(path, data)
        return True


class IgnoresIfMatch(Folder):
    """A store that honors only If-None-Match."""

    def put_if_unchanged(self, path: str, data: bytes, expected: Any) -> bool:
        if expected is None:
            return super().put_if_unchanged(path, data, expected)
        self.put(path, data)
        return True


@pytest.mark.parametrize("kind", [IgnoresConditions, IgnoresIfMatch])
def test_a_store_that_ignores_conditional_puts_is_refused(kind: type[Folder], tmp_path: Path):
    run = Run(Store("file:///odd", kind(tmp_path)), "runs/dag/run")
    with pytest.raises(AirsmithError, match="ignores conditional puts") as refused:
        refuse_unfit_store(run)
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert not list(run.store.list(""))


def test_a_store_that_is_not_writable_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(AirsmithError):
        refuse_unfit_store(Run(Store.open(f"file://{tmp_path}"), "runs/dag/run"))
