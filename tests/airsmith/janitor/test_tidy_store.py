"""Unused objects are found, and removed on request; objects in use are kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import stage_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.inventory import Folder, list_records
from airsmith.janitor.runs import KnownRun, active_in_airflow, active_in_store
from airsmith.registry import ModelVersionDraft, record_canary, record_current, register_version
from tests.support.janitor import has_objects, only_active, paths_under, tidy
from tests.support.recipes import pinned_recipe
from tests.support.registry import new_revision
from tests.support.runs import (
    finish_stages,
    new_run,
    publish_artifact,
    publish_checkpoint,
    train_key,
    write_unpublished,
)

AdvanceClock = Callable[..., None]
TRAINED = ("mirror_model", "mirror_dataset", "tokenize", "train")


def test_nothing_is_found_in_an_empty_store(store: Store) -> None:
    assert not [section.found for section in tidy(store).values() if section.found]


def test_nothing_is_removed_by_default(store: Store, advance_clock: AdvanceClock) -> None:
    write_unpublished(store, "artifacts/tokens/aa")
    publish_artifact(store, "tokens", "bb")
    publish_checkpoint(store, "key", 5)
    before = paths_under(store, "artifacts") | paths_under(store, "checkpoints")
    advance_clock(days=100)
    sections = tidy(store, kinds_to_delete=())
    assert {kind: len(section.found) for kind, section in sections.items()} == {
        "unfinished": 1, "uploads": 0, "checkpoints": 1, "caches": 1,
    }  # fmt: skip
    assert paths_under(store, "artifacts") | paths_under(store, "checkpoints") == before


def test_only_the_given_kinds_are_removed(store: Store, advance_clock: AdvanceClock) -> None:
    write_unpublished(store, "artifacts/tokens/aa")
    publish_artifact(store, "tokens", "bb")
    advance_clock(days=100)
    tidy(store, kinds_to_delete=("caches",))
    assert has_objects(store, "artifacts/tokens/aa")
    assert not has_objects(store, "artifacts/tokens/bb")


@pytest.mark.parametrize("hours", [1, 23])
def test_a_recent_unpublished_folder_is_kept(store: Store, advance_clock: AdvanceClock, hours: float) -> None:
    write_unpublished(store, "artifacts/tokens/aa")
    write_unpublished(store, "checkpoints/key/5")
    advance_clock(hours=hours)
    assert not tidy(store)["unfinished"].found


def test_an_unpublished_folder_is_removed_after_the_grace_period(store: Store, advance_clock: AdvanceClock) -> None:
    write_unpublished(store, "artifacts/tokens/aa")
    write_unpublished(store, "checkpoints/key/5")
    advance_clock(hours=25)
    (one, other) = tidy(store)["unfinished"].deleted
    assert (one.name, one.size_bytes) == ("artifacts/tokens/aa/attempt=lost", 8)
    assert other.name == "checkpoints/key/5/attempt=lost"
    assert not has_objects(store, "artifacts")
    assert not has_objects(store, "checkpoints")


def test_the_losing_attempt_is_removed_and_the_published_one_is_kept(store: Store, advance_clock: AdvanceClock) -> None:
    folder = publish_artifact(store, "tokens", "aa").folder
    lost = write_unpublished(store, folder)
    advance_clock(hours=25)
    tidy(store, kinds_to_delete=("unfinished",))
    assert not paths_under(store, folder) & set(lost)
    assert open_artifact(store, folder) is not None


def test_an_unpublished_output_of_a_live_run_is_kept_at_any_age(store: Store, advance_clock: AdvanceClock) -> None:
    run = new_run(store, "slow")
    finish_stages(run, "mirror_model", "mirror_dataset")
    spec = run.read_spec()
    tokens = stage_digest(STAGES["tokenize"], spec, run.input_pointers(STAGES["tokenize"]))
    write_unpublished(store, f"artifacts/tokens/{tokens}")
    advance_clock(days=100)
    assert not tidy(store, only_active(run))["unfinished"].found
    assert tidy(store, only_active())["unfinished"].deleted


def test_a_live_run_keeps_outputs_reusable_artifacts_and_checkpoints(store: Store, advance_clock: AdvanceClock) -> None:
    finish_stages(new_run(store, "before"), *TRAINED, "merge", "evaluate")
    run = new_run(store, "now", pinned_recipe(training={"seed": 7}))
    finish_stages(run, "mirror_model", "mirror_dataset", "tokenize")
    again = new_run(store, "again")  # it has just started, and will reuse the outputs of `before`
    own_checkpoint = publish_checkpoint(store, train_key(run), 5)
    everything = paths_under(store, "artifacts")
    advance_clock(days=100)
    assert not tidy(store, only_active(run, again))["caches"].found
    assert paths_under(store, "artifacts") == everything
    assert open_artifact(store, own_checkpoint) is not None


def test_artifacts_of_versions_and_endpoints_are_kept(store: Store, advance_clock: AdvanceClock) -> None:
    model, adapter, base, evaluation, previous, canary, beside, compiled = (
        publish_artifact(store, kind, digest).folder
        for kind, digest in (
            ("model", "m1"), ("adapter", "a1"), ("base_model", "b1"), ("evaluation", "e1"), ("model", "m2"),
            ("model", "m3"), ("adapter", "a2"), ("compile_cache", "c1"),
        )
    )  # fmt: skip
    unused = publish_artifact(store, "tokens", "t1").folder
    draft = {"digest": "d", "model": model, "adapter": adapter, "base_model": base, "base": {}, "recipe_digest": "r"}
    register_version(store, "tickets", ModelVersionDraft.model_validate({**draft, "evaluation": evaluation}))
    record_current(store, "tickets", new_revision("tickets", previous, compiled=compiled))
    record_current(store, "tickets", new_revision("tickets", base, adapters={"beside": beside}))
    record_canary(store, "tickets", new_revision("tickets", canary), 10)
    advance_clock(days=1000)
    assert [one.name for one in tidy(store)["caches"].deleted] == [unused]
    for folder in (model, adapter, base, evaluation, previous, canary, beside, compiled):
        assert open_artifact(store, folder) is not None


def test_an_artifact_of_a_finished_run_is_kept_for_30_days(store: Store, advance_clock: AdvanceClock) -> None:
    finish_stages(new_run(store, "late"), "mirror_model", "mirror_dataset")
    advance_clock(days=29)
    assert not tidy(store)["caches"].found
    advance_clock(days=31)
    assert len(tidy(store)["caches"].deleted) == 2


def test_checkpoints_of_a_finished_training_are_removed_sooner(store: Store, advance_clock: AdvanceClock) -> None:
    done, stopped = new_run(store, "done"), new_run(store, "stopped", pinned_recipe(training={"seed": 7}))
    finish_stages(done, *TRAINED)
    finish_stages(stopped, "mirror_model", "mirror_dataset", "tokenize")
    finished, resumable = (
        publish_checkpoint(store, train_key(done), 5),
        publish_checkpoint(store, train_key(stopped), 5),
    )
    advance_clock(days=6)
    assert not tidy(store)["checkpoints"].found
    advance_clock(days=8)
    assert [(one.name, one.reason.split(",")[0]) for one in tidy(store)["checkpoints"].deleted] == [
        (finished, "training finished")
    ]
    advance_clock(days=31)
    assert [one.name for one in tidy(store)["checkpoints"].deleted] == [resumable]


def test_a_run_that_starts_during_the_removal_keeps_what_it_reuses(
    store: Store, advance_clock: AdvanceClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = new_run(store, "before")
    finish_stages(before, *TRAINED)
    unused = publish_artifact(store, "tokens", "unused").folder
    advance_clock(days=100)
    started: list[Run] = []

    def start_run(seconds: float) -> None:
        """Its cache checks precede the removal of the manifests, its pointers follow it."""
        started.append(new_run(store, "meanwhile"))
        for stage in TRAINED:
            pointer = before.pointer(stage)
            assert pointer is not None
            started[0].write_pointer(pointer)

    monkeypatch.setattr("airsmith.janitor.reap.time.sleep", start_run)
    removed = tidy(store, lambda runs, now: {run.path for run in started}, kinds_to_delete=("caches",))[
        "caches"
    ].deleted
    assert [one.name for one in removed] == [unused]
    for stage in TRAINED:
        pointer = started[0].pointer(stage)
        assert pointer is not None
        assert open_artifact(store, pointer.location) is not None


def test_a_failing_second_check_restores_everything(
    store: Store, advance_clock: AdvanceClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish_artifact(store, "tokens", "aa").folder
    advance_clock(days=100)
    checks: list[None] = []

    def find(runs: object, now: datetime) -> set[str]:
        checks.append(None)
        if len(checks) == 3:
            raise AirsmithError(ErrorKind.STORE_UNAVAILABLE, "Airflow is gone.")
        return set()

    with pytest.raises(AirsmithError, match="Airflow is gone"):
        tidy(store, find)
    assert open_artifact(store, folder) is not None


def test_nothing_is_removed_if_a_record_is_unreadable(store: Store, advance_clock: AdvanceClock) -> None:
    publish_artifact(store, "tokens", "aa")
    store.write("endpoints/odd.json", b"{}")
    advance_clock(days=100)
    with pytest.raises(AirsmithError, match=r"endpoints/odd\.json"):
        tidy(store)
    assert has_objects(store, "artifacts/tokens/aa")


def test_unknown_objects_are_kept(store: Store, advance_clock: AdvanceClock) -> None:
    unknown = [
        "artifacts/readme",
        "artifacts/tokens/x",
        "artifacts/tokens/aa/notes.txt",
        "checkpoints/k/5/notes",
        "else/x",
    ]
    for path in unknown:
        store.write(path, b"unknown")
    advance_clock(days=1000)
    tidy(store)
    assert all(store.exists(path) for path in unknown)


def test_the_number_of_requests_does_not_grow_with_the_objects(
    s3_uri: str, s3_server: Any, advance_clock: AdvanceClock
) -> None:
    store = Store.open(s3_uri)
    finish_stages(new_run(store, "run"), *TRAINED)
    advance_clock(days=10)
    counts = []
    for more in (0, 200):
        for number in range(more):
            store.write(f"artifacts/model/aa/attempt=1/{number}", b"")
        requests: list[str] = []

        def watched(request: Any, real: Any, requests: list[str] = requests) -> Any:
            requests.append(f"{request.method} {request.path}")
            return real()

        s3_server.fault = watched
        tidy(store, kinds_to_delete=())
        s3_server.fault = None
        counts.append(len(requests))
    assert counts[0] == counts[1]


def test_a_run_is_finished_if_airflow_reports_all_its_tasks_as_finished(store: Store) -> None:
    runs = [new_run(store, run_id) for run_id in ("over", "between", "waiting", "deleted")]
    known = [KnownRun(folder, run.read_spec()) for run, folder in zip(runs, folders_of(store, runs), strict=True)]
    states = {
        "over": {"resolve": "success", "train": "failed", "merge": "upstream_failed"},
        "between": {"resolve": "success", "train": None},
        "waiting": {"resolve": "success", "train": "some_new_state"},
    }
    find = active_in_airflow(lambda dag_id, run_ids: {run: states[run] for run in run_ids if run in states})
    assert find(known, datetime.now(timezone.utc)) == {runs[1].path, runs[2].path}


def test_without_airflow_an_incomplete_run_is_alive_for_30_days(store: Store) -> None:
    run = new_run(store, "started")
    finish_stages(run, "mirror_model")
    (folder,) = folders_of(store, [run])
    known = [KnownRun(folder, run.read_spec())]
    now = datetime.now(timezone.utc)
    assert active_in_store(known, now + timedelta(days=29)) == {run.path}
    assert not active_in_store(known, now + timedelta(days=31))


def folders_of(store: Store, runs: list[Run]) -> list[Folder]:
    by_path = {folder.path: folder for folder in list_records(store).runs}
    return [by_path[run.path] for run in runs]
