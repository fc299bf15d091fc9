"""The janitor removes exactly the objects that no version, endpoint or live run refers to."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.registry import ModelVersionDraft, record_canary, record_current, register_version
from tests.support.janitor import only_active, paths_under, tidy
from tests.support.recipes import pinned_recipe
from tests.support.registry import new_revision
from tests.support.runs import (
    finish_stages,
    new_run,
    point_stage,
    publish_artifact,
    publish_checkpoint,
    train_key,
    write_unpublished,
)

KINDS = ("base_model", "tokens", "adapter", "model", "evaluation")
COUNT = 8

EndpointCase = tuple[list[tuple[int, int | None]], int | None]
"""The model and the adapter of each revision of an endpoint, and the model of its canary."""

numbers = st.integers(0, COUNT - 1)
optional_number = st.none() | numbers
versions = st.lists(st.tuples(numbers, optional_number, numbers, optional_number), max_size=3)
endpoints = st.lists(
    st.tuples(st.lists(st.tuples(numbers, optional_number), min_size=1, max_size=3), optional_number), max_size=2
)
runs = st.lists(st.tuples(st.booleans(), st.lists(numbers, max_size=3)), max_size=3)
lost_attempts = st.lists(numbers, max_size=4)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_exactly_the_unreachable_objects_are_removed(
    kind: str, request: pytest.FixtureRequest, advance_clock: Callable[..., None]
) -> None:
    base = request.getfixturevalue("s3_uri") if kind == "s3" else f"file://{request.getfixturevalue('tmp_path')}"
    advance_clock(days=1000)

    @settings(max_examples=25 if kind == "file" else 8, suppress_health_check=list(HealthCheck), deadline=None)
    @given(versions, endpoints, runs, lost_attempts)
    def holds(versions: list, endpoints: list, runs: list, lost_attempts: list) -> None:  # type: ignore[type-arg]
        store = Store.open(f"{base}/{uuid.uuid4().hex}")
        folders = [
            publish_artifact(store, KINDS[number % len(KINDS)], f"digest-{number}").folder for number in range(COUNT)
        ]
        in_use = {
            folders[one]
            for one in register_versions(store, folders, versions) | serve_models(store, folders, endpoints)
        }
        live_runs, pointed = start_runs(store, folders, runs)
        in_use |= pointed
        checkpoints = {run.path: publish_checkpoint(store, train_key(run), 5) for run in live_runs}
        attempts = [
            path for number in lost_attempts for path in write_unpublished(store, folders[number], f"attempt={number}")
        ]
        orphan = publish_checkpoint(store, "unused", 5)
        objects_before = {folder: paths_under(store, folder) for folder in (*in_use, *checkpoints.values())}

        tidy(store, only_active(*live_runs))

        for folder, before in objects_before.items():
            left = paths_under(store, folder)
            assert before - set(attempts) <= left, folder
            assert open_artifact(store, folder) is not None
        assert not [folder for folder in set(folders) - in_use if paths_under(store, folder)]
        assert not paths_under(store, orphan)
        unprotected = [path for path in attempts if not path.startswith(tuple(f"{folder}/" for folder in pointed))]
        assert not [path for path in unprotected if store.exists(path)]

    holds()


def register_versions(
    store: Store, folders: list[str], versions: list[tuple[int, int | None, int, int | None]]
) -> set[int]:
    for number, (model, adapter, base, evaluation) in enumerate(versions):
        draft = {
            "digest": str(number), "recipe_digest": "", "base": {},
            "model": folders[model], "base_model": folders[base],
            "adapter": None if adapter is None else folders[adapter],
            "evaluation": None if evaluation is None else folders[evaluation],
        }  # fmt: skip
        register_version(store, "tickets", ModelVersionDraft.model_validate(draft))
    return {one for version in versions for one in version if one is not None}


def serve_models(store: Store, folders: list[str], endpoints: list[EndpointCase]) -> set[int]:
    found: set[int] = set()
    for number, (served_before, canary) in enumerate(endpoints):
        name = f"endpoint-{number}"
        for model, adapter in served_before:
            adapters = {} if adapter is None else {"beside": folders[adapter]}
            record_current(store, name, new_revision(name, folders[model], adapters=adapters))
            found |= {model} | ({adapter} if adapter is not None else set())
        if canary is not None:
            record_canary(store, name, new_revision(name, folders[canary]), 20)
            found.add(canary)
    return found


def start_runs(store: Store, folders: list[str], runs: list[tuple[bool, list[int]]]) -> tuple[list[Run], set[str]]:
    """Write runs whose later stages point to any artifact.

    :returns: the live runs, and the folders that they point to.
    """
    live_runs: list[Run] = []
    pointed: set[str] = set()
    for number, (is_alive, outputs) in enumerate(runs):
        run = new_run(
            store, f"run-{number}-{datetime.now(timezone.utc):%H%M}", pinned_recipe(training={"seed": number})
        )
        finish_stages(run, "mirror_model", "mirror_dataset", "tokenize")
        for stage, output in zip(("train", "merge", "evaluate"), outputs):  # noqa: B905
            point_stage(run, stage, folders[output])
        if is_alive:
            live_runs.append(run)
            pointers = (run.pointer(stage) for stage in ("mirror_model", "mirror_dataset", "tokenize"))
            pointed |= {folders[output] for output in outputs} | {found.location for found in pointers if found}
    return live_runs, pointed
