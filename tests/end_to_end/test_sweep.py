"""A sweep in a real Airflow with real processes: trials, rungs, a failed trial, and the endpoint of the winner."""

from __future__ import annotations

import json

import pytest
import yaml

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run
from tests.support.airflow_home import TINY_RECIPE, AirflowHome
from tests.support.repository import REPOSITORY

SWEEP = {
    "trials": [
        {"method.r": 2},
        {"method.r": 8},
        {"method.r": 4, "method.target_modules": ["no_such_layer"]},
        {"method.r": 4, "training.learning_rate": 1e-7},
    ],
    "rungs": [10],
    "keep": 0.5,
}
SHARED = ("mirror_model", "mirror_dataset", "tokenize")  # cached if another test's run has made their outputs
TRAINING = {**TINY_RECIPE["training"], "max_steps": 20, "eval_steps": 5, "save_steps": 50}


@pytest.fixture(scope="module")
def sweep_run(airflow_home: AirflowHome) -> tuple[Run, str]:
    recipe = {**TINY_RECIPE, "training": TRAINING, "sweep": SWEEP}
    airflow_home.recipe_file.with_name("ranks.yaml").write_text(yaml.safe_dump(recipe))
    log = airflow_home.finish(airflow_home.start("airflow", "dags", "test", "sweep_ranks"))
    return airflow_home.runs()[-1], log


def test_all_trials_run_one_fails_and_the_best_continue(sweep_run: tuple[Run, str]):
    run, _ = sweep_run
    folders = sorted({info.path.split("/")[4] for info in run.store.list(f"{run.path}/trials")})
    first = [
        "1-r=2-at-10",
        "2-r=8-at-10",
        "3-r=4-target_modules=_no_such_layer-at-10",
        "4-r=4-learning_rate=1e-07-at-10",
    ]
    assert folders == sorted([*first, "1-r=2", "2-r=8"])
    states = {folder: run.trial(folder).statuses()["train"].state for folder in folders}
    assert states == {**dict.fromkeys(folders, "done"), first[2]: "failed"}
    for folder in first[:2]:
        pointer = run.trial(folder).pointer("train")
        assert pointer is not None
        assert pointer.metrics["steps"] == 10


def test_surviving_trials_keep_the_learning_rate_schedule(sweep_run: tuple[Run, str]):
    run, log = sweep_run
    assert log.count("Resuming from the checkpoint of step 10") == 2
    rows = [row for row in run.trial("2-r=8").metrics() if "learning_rate" in row]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    # Linear decay to 0 at step 20, although the trial pauses at step 10.
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(TRAINING["learning_rate"] / 19, rel=0.1)


def test_the_winner_becomes_the_runs_model_and_is_deployed(airflow_home: AirflowHome, sweep_run: tuple[Run, str]):
    run, _ = sweep_run
    spec = run.read_spec()
    losses = {trial.name: trial.eval_loss for trial in spec.trials}
    winner = next(trial for trial in spec.trials if trial.is_winner)
    assert winner.eval_loss == min(losses[name] for name in ("1-r=2", "2-r=8"))
    assert spec.recipe.method.r == winner.values["method.r"]
    states = {stage: status.state for stage, status in run.statuses().items() if stage not in SHARED}
    assert states == {stage: "done" for stage in spec.plan.names() if stage not in SHARED}
    train, deployed = run.pointer("train"), run.pointer("deploy")
    assert train is not None
    assert deployed is not None
    assert train.digest == winner.train_digest
    assert deployed.properties["endpoint"] == "ranks"


def test_the_trials_are_reported_as_a_table_and_a_plot(sweep_run: tuple[Run, str]):
    run, _ = sweep_run
    pointer = run.pointer("compare_trials")
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    assert set(artifact.names()) == {"trials.json", "trials.md", "trials.csv", "trials.png"}
    rows = json.loads(artifact.read("trials.json"))
    assert [row["is_winner"] for row in rows] == [True, False, False, False]
    assert rows[-1]["eval_loss"] is None
    table = artifact.read("trials.md").decode()
    assert "| 1 (winner) |" in table
    assert "failed" in table.splitlines()[-1]
    assert artifact.read("trials.png").startswith(b"\x89PNG")


def test_the_cli_finds_the_same_winner_and_retrains_nothing(airflow_home: AirflowHome, sweep_run: tuple[Run, str]):
    log = airflow_home.finish(airflow_home.start("airsmith", "sweep", "ranks"))
    winner = next(trial for trial in sweep_run[0].read_spec().trials if trial.is_winner)
    assert f"The winner is {winner.name}" in log
    assert "Trial 3-r=4-target_modules=_no_such_layer-at-10 failed" in log
    assert log.count("Resuming from") == 0
    found = airflow_home.runs()[-1].pointer("train")
    assert found is not None
    assert found.digest == winner.train_digest


@pytest.mark.long
def test_the_reference_sweep_deploys_the_best_of_ten_ranks(airflow_home: AirflowHome):
    name = "ticket-triage-ranks.yaml"
    airflow_home.recipe_file.with_name(name).write_text((REPOSITORY / "dags" / "recipes" / name).read_text())
    airflow_home.finish(airflow_home.start("airflow", "dags", "test", "sweep_ticket_triage_ranks"))
    run = airflow_home.runs()[-1]
    spec = run.read_spec()
    assert len(spec.trials) == 10
    assert sorted(trial.steps for trial in spec.trials) == [50] * 7 + [150] * 2 + [300]
    winner = next(trial for trial in spec.trials if trial.is_winner)
    assert winner.steps == 300
    evaluated, deployed, table = (run.pointer(stage) for stage in ("evaluate", "deploy", "compare_trials"))
    assert evaluated is not None
    assert evaluated.metrics["exact_match_tuned"] > evaluated.metrics["exact_match_base"]
    assert deployed is not None
    assert deployed.properties["endpoint"] == "ticket-triage-ranks"
    assert table is not None
    artifact = open_artifact(run.store, table.location)
    assert artifact is not None
    print(artifact.read("trials.md").decode())
    (airflow_home.folder / "trials.png").write_bytes(artifact.read("trials.png"))
