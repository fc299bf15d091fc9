"""The DAGs of sweeps: the fine-tuning's graph, with trials, rung by rung, where the training was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions.context import Context

from airsmith.airflow.dags.finetune import RUN_URI, build_dag, mapped_training, retry_options
from airsmith.airflow.operators.base import typed_errors
from airsmith.contracts.spec import Plan
from airsmith.errors import AirsmithError
from airsmith.pipeline.pages import SWEEP_SUMMARIES
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from airsmith.settings import Settings, load_settings

WHATEVER_CAME_BEFORE = "all_done"
"""Airflow's rule for a task that goes on with those that succeeded."""


def sweep_dags(folder: Path) -> list[DAG]:
    """One DAG per recipe with a sweep. What is wrong with a recipe is told by its other DAG.

    :param folder: holds the recipes, `*.yaml` or `*.yml`.
    """
    settings = load_settings()
    dags = []
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".yaml", ".yml"):
            continue
        try:
            recipe = load_recipe(file)
            if recipe.sweep is not None:
                dags.append(build_dag(recipe, file, settings, trials=trial_tasks))
        except AirsmithError:
            continue
    return dags


class BeginRungOperator(BaseOperator):
    """Begin a rung of the sweep: all trials, or the best of the rung before.

    :param run_uri: URI of the run's folder (templated).
    :param rung: its number, from 0.
    """

    template_fields = ("run_uri",)
    ui_color = "#fef7e0"

    def __init__(self, *, run_uri: str, rung: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_uri = run_uri
        self.rung = rung

    def execute(self, context: Context) -> list[str]:
        """Write the specs of the rung's trials.

        :returns: URIs of the trials' folders: a training each.
        """
        from airsmith.contracts.run import Run
        from airsmith.pipeline.sweep import begin_rung

        with typed_errors(self.log):
            trials = begin_rung(Run.open(self.run_uri), self.rung)
        for trial in trials:
            self.log.info("Trial %s", trial.trial_name)
        return [trial.uri for trial in trials]


class ChooseTrialOperator(BaseOperator):
    """Make the best trial's recipe and output those of the run.

    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = ("run_uri",)
    ui_color = "#fef7e0"

    def __init__(self, *, run_uri: str, **kwargs: Any) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.run_uri = run_uri

    def execute(self, context: Context) -> None:
        """Choose the winner, and tell it."""
        from airsmith.contracts.run import Run
        from airsmith.pipeline.sweep import choose_winner

        with typed_errors(self.log):
            winner = choose_winner(Run.open(self.run_uri))
        self.log.info("The winner is %s, with a validation loss of %s", winner.name, winner.eval_loss)


def trial_tasks(
    recipe: Recipe, plan: Plan, settings: Settings, dag: DAG, task_group: TaskGroup
) -> tuple[BaseOperator, BaseOperator]:
    """The tasks in the training's place: for each rung one that begins it and the trainings, then the choice.

    :returns: the first and the last of them.
    """
    assert recipe.sweep is not None
    where = {"dag": dag, "task_group": task_group}
    light = {**retry_options(settings, "cpu"), **where}
    rungs = len(recipe.sweep.rungs) + 1
    first: BaseOperator | None = None
    trainings: Any = None
    for number in range(rungs):
        begin = BeginRungOperator(
            task_id=f"begin_rung_{number + 1}",
            run_uri=RUN_URI,
            rung=number,
            doc_md=SWEEP_SUMMARIES["begin_rung"],
            trigger_rule="all_success" if trainings is None else WHATEVER_CAME_BEFORE,
            **light,
        )
        if trainings is not None:
            begin.set_upstream(trainings)
        first = first or begin
        trainings = mapped_training(
            begin.output,
            recipe,
            settings,
            task_id=f"train_rung_{number + 1}" if number < rungs - 1 else "train",
            doc_md=SWEEP_SUMMARIES["train"],
            map_index_template="{{ task.run_uri.rsplit('/', 1)[-1] }}",
            max_active_tis_per_dagrun=recipe.sweep.max_parallel_trials,
            **where,
        )
    choose = ChooseTrialOperator(
        task_id="choose_trial",
        run_uri=RUN_URI,
        doc_md=SWEEP_SUMMARIES["choose_trial"],
        trigger_rule=WHATEVER_CAME_BEFORE,
        **light,
    )
    choose.set_upstream(trainings)
    assert first is not None
    return first, choose
