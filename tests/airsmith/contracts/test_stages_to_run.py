"""Which stages will need a pod is known beforehand, from the store alone."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import look_up_output, stages_to_run
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import TOKENIZER
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

BEFORE_DEPLOY = ("mirror_model", "mirror_dataset", "tokenize", "train", "merge", "evaluate", "register")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def new_run(store: Store, name: str, seed: int = 0) -> Run:
    recipe = Recipe.model_validate(
        {
            "name": "tickets",
            "model": {"id": "a/b", "revision": "0" * 40},
            "dataset": {"id": "c/d", "revision": "1" * 40, "validation_fraction": 0.1},
            "training": {"seed": seed},
        }
    )
    run = Run(store, f"runs/dag/{name}")
    run.write_spec(
        RunSpec(
            dag_id="dag",
            run_id=name,
            recipe=recipe,
            recipe_file="tickets.yaml",
            recipe_digest="",
            plan=make_plan(recipe),
            airsmith_version="0",
            created_at=datetime.now(timezone.utc),
        )
    )
    return run


def make(run: Run, *stages: str) -> None:
    """Let stages have made their output."""
    for stage in stages:
        wanted = look_up_output(run, run.read_spec(), stage)
        with write_artifact(
            run.store, wanted.location, type=wanted.type, digest=wanted.digest, inputs={}, versions={}
        ) as output:
            output.add_bytes("content", stage.encode())
            output.publish(properties={TOKENIZER: "t"})
        found = look_up_output(run, run.read_spec(), stage)
        run.write_pointer(found.pointer(stage))


def missing(run: Run) -> tuple[str, ...]:
    return stages_to_run(run, run.read_spec())


def test_everything_is_missing_at_first(store: Store):
    assert missing(new_run(store, "first")) == BEFORE_DEPLOY


def test_what_another_run_has_made_is_not(store: Store):
    make(new_run(store, "first"), "mirror_model", "mirror_dataset", "tokenize", "train")
    assert missing(new_run(store, "second")) == ("merge", "evaluate", "register")


def test_what_follows_from_a_missing_output_is_missing_too(store: Store):
    make(new_run(store, "first"), "mirror_model", "mirror_dataset", "tokenize", "train")
    assert missing(new_run(store, "other", seed=1)) == ("train", "merge", "evaluate", "register")


def test_looking_leaves_nothing(store: Store):
    run = new_run(store, "first")
    missing(run)
    assert [info.path for info in store.list("")] == [f"{run.path}/spec.json"]
