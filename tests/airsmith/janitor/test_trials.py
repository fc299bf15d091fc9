"""Artifacts and checkpoints of trials are kept while their sweep runs, and no longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.janitor.runs import active_in_airflow
from tests.support.janitor import has_objects, tidy
from tests.support.runs import finish_stages, new_run, point_stage, publish_artifact, publish_checkpoint, train_key


def trial_of(run: Run, name: str) -> Run:
    """A trial that has trained to its rung."""
    trial = run.trial(name)
    for stage in ("mirror_model", "mirror_dataset", "tokenize"):
        pointer = run.pointer(stage)
        assert pointer is not None
        trial.write_pointer(pointer)
    spec = run.read_spec()
    training = spec.recipe.training.model_copy(update={"seed": 7})
    recipe = spec.recipe.model_copy(update={"training": training})
    trial.write_spec(spec.model_copy(update={"recipe": recipe, "stop_at_step": 50}))
    point_stage(trial, "train", publish_artifact(run.store, "adapter", "of-a-trial").folder)
    return trial


def test_the_trials_of_a_live_run_keep_their_artifacts_and_checkpoints(
    tmp_path: Path, advance_clock: Callable[..., None]
) -> None:
    store = Store.open(f"file://{tmp_path}")
    run = new_run(store, "sweep")
    finish_stages(run, "mirror_model", "mirror_dataset", "tokenize")
    trial = trial_of(run, "1-r=4-at-50")
    assert train_key(trial) != train_key(run)
    kept = ["artifacts/adapter/of-a-trial", publish_checkpoint(store, train_key(trial), 50)]
    advance_clock(days=1000)
    states = {"sweep": {"train": "running"}}

    def fetch_states(dag_id: str, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
        return {run_id: states[run_id] for run_id in run_ids if run_id in states}

    tidy(store, active_in_airflow(fetch_states))
    assert all(has_objects(store, folder) for folder in kept)
    states["sweep"] = {"train": "success"}
    tidy(store, active_in_airflow(fetch_states))
    assert not any(has_objects(store, folder) for folder in kept)
