"""Whatever a store holds: nothing that a version, an endpoint or a run at work leads to is removed, and all else is."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workshop import (
    active,
    artifact,
    checkpoint,
    half_published,
    key_of,
    make,
    new_run,
    paths_under,
    point,
    served,
    tidy,
)

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.registry import ModelVersionDraft, record_canary, record_current, register_version

KINDS = ("base_model", "tokens", "adapter", "model", "evaluation")
MOST = 8

Served = tuple[list[tuple[int, int | None]], int | None]
"""Model and adapter of each start of an endpoint's server, and the model of a candidate."""

numbers = st.integers(0, MOST - 1)
maybe = st.none() | numbers
versions = st.lists(st.tuples(numbers, maybe, numbers, maybe), max_size=3)
endpoints = st.lists(st.tuples(st.lists(st.tuples(numbers, maybe), min_size=1, max_size=3), maybe), max_size=2)
runs = st.lists(st.tuples(st.booleans(), st.lists(numbers, max_size=3)), max_size=3)
lost = st.lists(numbers, max_size=4)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_what_is_reachable_stays_and_the_rest_goes(
    kind: str, request: pytest.FixtureRequest, later: Callable[..., None]
) -> None:
    base = request.getfixturevalue("s3_uri") if kind == "s3" else f"file://{request.getfixturevalue('tmp_path')}"
    later(days=1000)

    @settings(max_examples=25 if kind == "file" else 8, suppress_health_check=list(HealthCheck), deadline=None)
    @given(versions, endpoints, runs, lost)
    def holds(versions: list, endpoints: list, runs: list, lost: list) -> None:  # type: ignore[type-arg]
        store = Store.open(f"{base}/{uuid.uuid4().hex}")
        folders = [artifact(store, KINDS[number % len(KINDS)], f"digest-{number}") for number in range(MOST)]
        needed = {folders[one] for one in register(store, folders, versions) | serve(store, folders, endpoints)}
        working, pointed = start(store, folders, runs)
        needed |= pointed
        checkpoints = {run.path: checkpoint(store, key_of(run), 5) for run in working}
        attempts = [path for number in lost for path in half_published(store, folders[number], f"attempt={number}")]
        orphan = checkpoint(store, "nobody's", 5)
        whole = {folder: paths_under(store, folder) for folder in (*needed, *checkpoints.values())}

        tidy(store, active(*working))

        for folder, before in whole.items():
            left = paths_under(store, folder)
            assert before - set(attempts) <= left, folder
            assert open_artifact(store, folder) is not None
        assert not [folder for folder in set(folders) - needed if paths_under(store, folder)]
        assert not paths_under(store, orphan)
        free = [path for path in attempts if not path.startswith(tuple(f"{folder}/" for folder in pointed))]
        assert not [path for path in free if store.exists(path)]

    holds()


def register(store: Store, folders: list[str], versions: list[tuple[int, int | None, int, int | None]]) -> set[int]:
    for number, (model, adapter, base, evaluation) in enumerate(versions):
        draft = {
            "digest": str(number), "recipe_digest": "", "base": {},
            "model": folders[model], "base_model": folders[base],
            "adapter": None if adapter is None else folders[adapter],
            "evaluation": None if evaluation is None else folders[evaluation],
        }  # fmt: skip
        register_version(store, "tickets", ModelVersionDraft.model_validate(draft))
    return {one for version in versions for one in version if one is not None}


def serve(store: Store, folders: list[str], endpoints: list[Served]) -> set[int]:
    found: set[int] = set()
    for number, (served_before, candidate) in enumerate(endpoints):
        name = f"endpoint-{number}"
        for model, adapter in served_before:
            adapters = {} if adapter is None else {"beside": folders[adapter]}
            record_current(store, name, served(name, folders[model], adapters=adapters))
            found |= {model} | ({adapter} if adapter is not None else set())
        if candidate is not None:
            record_canary(store, name, served(name, folders[candidate]), 20)
            found.add(candidate)
    return found


def start(store: Store, folders: list[str], runs: list[tuple[bool, list[int]]]) -> tuple[list[Run], set[str]]:
    """Runs whose later stages point to any artifact; those at work, and what they point to."""
    working: list[Run] = []
    pointed: set[str] = set()
    for number, (is_at_work, outputs) in enumerate(runs):
        run = new_run(store, f"run-{number}-{datetime.now(timezone.utc):%H%M}", seed=number)
        make(run, "mirror_model", "mirror_dataset", "tokenize")
        for stage, output in zip(("train", "merge", "evaluate"), outputs):  # noqa: B905
            point(run, stage, folders[output])
        if is_at_work:
            working.append(run)
            pointers = (run.pointer(stage) for stage in ("mirror_model", "mirror_dataset", "tokenize"))
            pointed |= {folders[output] for output in outputs} | {found.location for found in pointers if found}
    return working, pointed
