"""What nobody needs is found and, where told, removed; what anybody needs stays whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from workshop import (
    active,
    artifact,
    checkpoint,
    half_published,
    is_there,
    key_of,
    make,
    new_run,
    paths_under,
    served,
    tidy,
)

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import stage_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.inventory import Folder, list_records
from airsmith.janitor.runs import KnownRun, active_in_airflow, active_in_store
from airsmith.registry import ModelVersionDraft, record_canary, record_current, register_version

Later = Callable[..., None]
TRAINED = ("mirror_model", "mirror_dataset", "tokenize", "train")


def test_an_empty_store_is_tidy(store: Store) -> None:
    assert not [section.found for section in tidy(store).values() if section.found]


def test_nothing_is_removed_that_it_is_not_told_to(store: Store, later: Later) -> None:
    half_published(store, "artifacts/tokens/aa")
    artifact(store, "tokens", "bb")
    checkpoint(store, "key", 5)
    before = paths_under(store, "artifacts") | paths_under(store, "checkpoints")
    later(days=100)
    sections = tidy(store, kinds_to_delete=())
    assert {kind: len(section.found) for kind, section in sections.items()} == {
        "unfinished": 1, "uploads": 0, "checkpoints": 1, "caches": 1,
    }  # fmt: skip
    assert paths_under(store, "artifacts") | paths_under(store, "checkpoints") == before


def test_each_kind_is_told_apart(store: Store, later: Later) -> None:
    half_published(store, "artifacts/tokens/aa")
    artifact(store, "tokens", "bb")
    later(days=100)
    tidy(store, kinds_to_delete=("caches",))
    assert is_there(store, "artifacts/tokens/aa")
    assert not is_there(store, "artifacts/tokens/bb")


@pytest.mark.parametrize("hours", [1, 23])
def test_what_is_being_written_stays(store: Store, later: Later, hours: float) -> None:
    half_published(store, "artifacts/tokens/aa")
    half_published(store, "checkpoints/key/5")
    later(hours=hours)
    assert not tidy(store)["unfinished"].found


def test_half_published_folders_go_after_the_grace(store: Store, later: Later) -> None:
    half_published(store, "artifacts/tokens/aa")
    half_published(store, "checkpoints/key/5")
    later(hours=25)
    (one, other) = tidy(store)["unfinished"].deleted
    assert (one.name, one.size_bytes) == ("artifacts/tokens/aa/attempt=lost", 8)
    assert other.name == "checkpoints/key/5/attempt=lost"
    assert not is_there(store, "artifacts")
    assert not is_there(store, "checkpoints")


def test_the_loser_of_a_race_goes_and_the_winner_stays(store: Store, later: Later) -> None:
    folder = artifact(store, "tokens", "aa")
    lost = half_published(store, folder)
    later(hours=25)
    tidy(store, kinds_to_delete=("unfinished",))
    assert not paths_under(store, folder) & set(lost)
    assert open_artifact(store, folder) is not None


def test_what_a_run_at_work_is_writing_stays_however_long_it_takes(store: Store, later: Later) -> None:
    run = new_run(store, "slow")
    make(run, "mirror_model", "mirror_dataset")
    spec = run.read_spec()
    tokens = stage_digest(STAGES["tokenize"], spec, run.input_pointers(STAGES["tokenize"]))
    half_published(store, f"artifacts/tokens/{tokens}")
    later(days=100)
    assert not tidy(store, active(run))["unfinished"].found
    assert tidy(store, active())["unfinished"].deleted


def test_what_a_run_at_work_has_made_will_reuse_and_goes_on_from_stays(store: Store, later: Later) -> None:
    make(new_run(store, "before"), *TRAINED, "merge", "evaluate")
    run = new_run(store, "now", seed=7)
    make(run, "mirror_model", "mirror_dataset", "tokenize")
    again = new_run(store, "again")  # it has only begun, and will find what `before` has made
    mine = checkpoint(store, key_of(run), 5)
    everything = paths_under(store, "artifacts")
    later(days=100)
    assert not tidy(store, active(run, again))["caches"].found
    assert paths_under(store, "artifacts") == everything
    assert open_artifact(store, mine) is not None


def test_what_versions_and_endpoints_point_to_stays(store: Store, later: Later) -> None:
    model, adapter, base, evaluation, previous, candidate, beside, compiled = (
        artifact(store, kind, digest)
        for kind, digest in (
            ("model", "m1"), ("adapter", "a1"), ("base_model", "b1"), ("evaluation", "e1"), ("model", "m2"),
            ("model", "m3"), ("adapter", "a2"), ("compile_cache", "c1"),
        )
    )  # fmt: skip
    unused = artifact(store, "tokens", "t1")
    draft = {"digest": "d", "model": model, "adapter": adapter, "base_model": base, "base": {}, "recipe_digest": "r"}
    register_version(store, "tickets", ModelVersionDraft.model_validate({**draft, "evaluation": evaluation}))
    record_current(store, "tickets", served("tickets", previous, compiled=compiled))
    record_current(store, "tickets", served("tickets", base, adapters={"beside": beside}))
    record_canary(store, "tickets", served("tickets", candidate), 10)
    later(days=1000)
    assert [one.name for one in tidy(store)["caches"].deleted] == [unused]
    for folder in (model, adapter, base, evaluation, previous, candidate, beside, compiled):
        assert open_artifact(store, folder) is not None


def test_an_artifact_stays_as_long_as_runs_use_it(store: Store, later: Later) -> None:
    make(new_run(store, "late"), "mirror_model", "mirror_dataset")
    later(days=29)
    assert not tidy(store)["caches"].found
    later(days=31)
    assert len(tidy(store)["caches"].deleted) == 2


def test_checkpoints_go_sooner_once_the_training_is_done(store: Store, later: Later) -> None:
    done, stopped = new_run(store, "done"), new_run(store, "stopped", seed=7)
    make(done, *TRAINED)
    make(stopped, "mirror_model", "mirror_dataset", "tokenize")
    ended, unfinished = checkpoint(store, key_of(done), 5), checkpoint(store, key_of(stopped), 5)
    later(days=6)
    assert not tidy(store)["checkpoints"].found
    later(days=8)
    assert [(one.name, one.reason.split(",")[0]) for one in tidy(store)["checkpoints"].deleted] == [
        (ended, "training done")
    ]
    later(days=31)
    assert [one.name for one in tidy(store)["checkpoints"].deleted] == [unfinished]


def test_a_run_that_begins_meanwhile_keeps_what_it_finds(
    store: Store, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = new_run(store, "before")
    make(before, *TRAINED)
    unused = artifact(store, "tokens", "unused")
    later(days=100)
    begun: list[Run] = []

    def begin(seconds: float) -> None:
        """Its cache checks come before the manifests go, its pointers after that."""
        begun.append(new_run(store, "meanwhile"))
        for stage in TRAINED:
            pointer = before.pointer(stage)
            assert pointer is not None
            begun[0].write_pointer(pointer)

    monkeypatch.setattr("airsmith.janitor.reap.time.sleep", begin)
    removed = tidy(store, lambda runs, now: {run.path for run in begun}, kinds_to_delete=("caches",))["caches"].deleted
    assert [one.name for one in removed] == [unused]
    for stage in TRAINED:
        pointer = begun[0].pointer(stage)
        assert pointer is not None
        assert open_artifact(store, pointer.location) is not None


def test_a_failing_second_look_brings_everything_back(
    store: Store, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifact(store, "tokens", "aa")
    later(days=100)
    looks: list[None] = []

    def find(runs: object, now: datetime) -> set[str]:
        looks.append(None)
        if len(looks) == 3:
            raise AirsmithError(ErrorKind.STORE_UNAVAILABLE, "Airflow is gone.")
        return set()

    with pytest.raises(AirsmithError, match="Airflow is gone"):
        tidy(store, find)
    assert open_artifact(store, folder) is not None


def test_nothing_is_removed_while_a_record_cannot_be_understood(store: Store, later: Later) -> None:
    artifact(store, "tokens", "aa")
    store.write("endpoints/odd.json", b"{}")
    later(days=100)
    with pytest.raises(AirsmithError, match=r"endpoints/odd\.json"):
        tidy(store)
    assert is_there(store, "artifacts/tokens/aa")


def test_what_is_not_ours_is_never_touched(store: Store, later: Later) -> None:
    theirs = [
        "artifacts/readme",
        "artifacts/tokens/x",
        "artifacts/tokens/aa/notes.txt",
        "checkpoints/k/5/notes",
        "else/x",
    ]
    for path in theirs:
        store.write(path, b"theirs")
    later(days=1000)
    tidy(store)
    assert all(store.exists(path) for path in theirs)


def test_requests_do_not_grow_with_the_objects(s3_uri: str, s3_server: Any, later: Later) -> None:
    store = Store.open(s3_uri)
    make(new_run(store, "run"), *TRAINED)
    later(days=10)
    asked = []
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
        asked.append(len(requests))
    assert asked[0] == asked[1]


def test_a_run_is_over_when_airflow_says_so_of_each_of_its_tasks(store: Store) -> None:
    runs = [new_run(store, run_id) for run_id in ("over", "between", "waiting", "deleted")]
    known = [KnownRun(folder, run.read_spec()) for run, folder in zip(runs, folders_of(store, runs), strict=True)]
    states = {
        "over": {"resolve": "success", "train": "failed", "merge": "upstream_failed"},
        "between": {"resolve": "success", "train": None},
        "waiting": {"resolve": "success", "train": "some_new_state"},
    }
    find = active_in_airflow(lambda dag_id, run_ids: {run: states[run] for run in run_ids if run in states})
    assert find(known, datetime.now(timezone.utc)) == {runs[1].path, runs[2].path}


def test_without_airflow_a_run_that_lacks_an_output_counts_as_at_work_for_a_month(store: Store) -> None:
    run = new_run(store, "begun")
    make(run, "mirror_model")
    (folder,) = folders_of(store, [run])
    known = [KnownRun(folder, run.read_spec())]
    now = datetime.now(timezone.utc)
    assert active_in_store(known, now + timedelta(days=29)) == {run.path}
    assert not active_in_store(known, now + timedelta(days=31))


def folders_of(store: Store, runs: list[Run]) -> list[Folder]:
    by_path = {folder.path: folder for folder in list_records(store).runs}
    return [by_path[run.path] for run in runs]
