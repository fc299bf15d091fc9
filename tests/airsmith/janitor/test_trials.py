"""The trials of a sweep at work keep what they have made and go on from; those of one that is over do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workshop import artifact, checkpoint, is_there, key_of, make, new_run, point, tidy

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.janitor.runs import active_in_airflow


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
    point(trial, "train", artifact(run.store, "adapter", "of-a-trial"))
    return trial


def test_what_trials_need_stays_while_their_run_is_at_work(tmp_path: Path, later: Callable[..., None]) -> None:
    store = Store.open(f"file://{tmp_path}")
    run = new_run(store, "sweep")
    make(run, "mirror_model", "mirror_dataset", "tokenize")
    trial = trial_of(run, "1-r=4-at-50")
    assert key_of(trial) != key_of(run)
    kept = ["artifacts/adapter/of-a-trial", checkpoint(store, key_of(trial), 50)]
    later(days=1000)
    states = {"sweep": {"train": "running"}}

    def ask(dag_id: str, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
        return {run_id: states[run_id] for run_id in run_ids if run_id in states}

    tidy(store, active_in_airflow(ask))
    assert all(is_there(store, folder) for folder in kept)
    states["sweep"] = {"train": "success"}
    tidy(store, active_in_airflow(ask))
    assert not any(is_there(store, folder) for folder in kept)
