"""`stages_to_run` finds from the store alone which stages need a pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.cache import stages_to_run
from airsmith.contracts.run import Run
from tests.support.recipes import pinned_recipe
from tests.support.runs import finish_stages, new_run

STAGES_IN_PODS = ("mirror_model", "mirror_dataset", "tokenize", "train", "merge", "evaluate", "register")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"file://{tmp_path}/store")


def missing(run: Run) -> tuple[str, ...]:
    return stages_to_run(run, run.read_spec())


def test_an_empty_store_lacks_every_output(store: Store):
    assert missing(new_run(store, "first")) == STAGES_IN_PODS


def test_outputs_of_another_run_are_reused(store: Store):
    finish_stages(new_run(store, "first"), "mirror_model", "mirror_dataset", "tokenize", "train")
    assert missing(new_run(store, "second")) == ("merge", "evaluate", "register")


def test_stages_downstream_of_a_missing_output_run_too(store: Store):
    finish_stages(new_run(store, "first"), "mirror_model", "mirror_dataset", "tokenize", "train")
    assert missing(new_run(store, "other", pinned_recipe(training={"seed": 1}))) == (
        "train",
        "merge",
        "evaluate",
        "register",
    )


def test_the_check_writes_nothing(store: Store):
    run = new_run(store, "first")
    missing(run)
    assert [info.path for info in store.list("")] == [f"{run.path}/spec.json"]
