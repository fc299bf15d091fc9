"""Runs, artifacts, checkpoints, versions and endpoints, as the stages would leave them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from typing import Any

from airsmith.artifacts.layout import artifact_folder, checkpoint_folder, run_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, TOKENIZER
from airsmith.janitor.report import Section
from airsmith.janitor.runs import FindActive, KnownRun
from airsmith.janitor.tidy import tidy_store
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.registry import Revision
from airsmith.settings import JanitorSettings

ALL = ("unfinished", "uploads", "checkpoints", "caches")
DAG = "finetune_tickets"


def new_run(store: Store, run_id: str, **training: Any) -> Run:
    recipe = Recipe.model_validate(
        {
            "name": "tickets",
            "model": {"id": "a/b", "revision": "0" * 40},
            "dataset": {"id": "c/d", "revision": "1" * 40, "validation_fraction": 0.1},
            "training": training,
        }
    )
    run = Run(store, run_folder(DAG, run_id))
    run.write_spec(
        RunSpec(
            dag_id=DAG, run_id=run_id, recipe=recipe, recipe_file="tickets.yaml", recipe_digest="",
            plan=make_plan(recipe), airsmith_version="0", created_at=datetime.now(timezone.utc),
        )
    )  # fmt: skip
    return run


def make(run: Run, *stages: str) -> None:
    """Let stages have made their output."""
    for stage in stages:
        wanted = look_up_output(run, run.read_spec(), stage)
        publish(run.store, wanted.location, wanted.type, wanted.digest)
        run.write_pointer(look_up_output(run, run.read_spec(), stage).pointer(stage))


def publish(store: Store, folder: str, kind: str, digest: str) -> str:
    with write_artifact(store, folder, type=kind, digest=digest, inputs={}, versions={}) as output:
        output.add_bytes("weights", digest.encode())
        output.add_bytes("more/config.json", b"{}")
        output.publish(properties={TOKENIZER: "t"})
    return folder


def artifact(store: Store, kind: str, digest: str) -> str:
    """A published artifact that no run has made."""
    return publish(store, artifact_folder(kind, digest), kind, digest)


def half_published(store: Store, folder: str, attempt: str = "attempt=lost") -> list[str]:
    """What a writer leaves that dies."""
    paths = [f"{folder}/{attempt}/{name}" for name in ("weights", "more/config.json")]
    for path in paths:
        store.write(path, b"half")
    return paths


def checkpoint(store: Store, key: str, step: int) -> str:
    return publish(store, checkpoint_folder(key, step), "checkpoint", key)


def key_of(run: Run) -> str:
    return checkpoint_key(STAGES["train"], run.read_spec(), run.input_pointers(STAGES["train"]))


def point(run: Run, stage: str, location: str) -> None:
    now = datetime.now(timezone.utc)
    kind, digest = location.split("/")[1:3]
    run.write_pointer(
        StagePointer(stage=stage, type=kind, digest=digest, location=location, cached=False, started_at=now, seconds=1)
    )


def served(name: str, model: str, **fields: Any) -> Revision:
    known = {"engine": "vllm", "address": "http://x", "model_name": name, "id": f"{name}-{model[-8:]}"}
    return Revision.model_validate({**known, "model_uri": model, **fields})


def active(*runs: Run) -> FindActive:
    """Whoever knows the runs says that these are not over."""
    paths = {run.path for run in runs}

    def find(known: Sequence[KnownRun], now: datetime) -> Collection[str]:
        return paths & {run.folder.path for run in known}

    return find


def tidy(
    store: Store, find_active: FindActive | None = None, kinds_to_delete: Collection[str] = ALL
) -> dict[str, Section]:
    sections = tidy_store(store, JanitorSettings(), find_active or active(), kinds_to_delete)
    return {section.kind: section for section in sections}


def paths_under(store: Store, folder: str) -> set[str]:
    return {info.path for info in store.list(folder)}


def is_there(store: Store, folder: str) -> bool:
    with contextlib.suppress(StopIteration):
        return next(iter(store.list(folder))) is not None
    return False
