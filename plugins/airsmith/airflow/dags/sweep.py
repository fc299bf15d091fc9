"""The DAGs of sweeps: the fine-tuning DAG, with the trials of each rung in place of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions.context import Context

from airsmith.airflow.dags.finetune import RUN_URI, build_dag, mapped_training
from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.retry_policy import retry_options
from airsmith.contracts.spec import Plan
from airsmith.errors import AirsmithError
from airsmith.pipeline.pages import SWEEP_SUMMARIES
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from airsmith.settings import Settings, load_settings

ALL_DONE = "all_done"
"""Airflow's trigger rule for a task that continues with the upstream tasks that succeeded."""


def sweep_dags(folder: Path) -> list[DAG]:
    """One DAG per recipe with a sweep. The fine-tuning DAG of a broken recipe reports its error.

    :param folder: folder of the recipes, `*.yaml` or `*.yml`.
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
    """Begin a rung of the sweep: all trials, or the best of the previous rung.

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

        :returns: URIs of the trials' folders, one training each.
        """
        from airsmith.contracts.run import Run
        from airsmith.pipeline.sweep import begin_rung

        with typed_errors(self.log):
            trials = begin_rung(Run.open(self.run_uri), self.rung)
        for trial in trials:
            self.log.info("Trial %s", trial.trial_name)
        return [trial.uri for trial in trials]


class ChooseTrialOperator(BaseOperator):
    """Adopt the best trial's recipe and output as the run's.

    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = ("run_uri",)
    ui_color = "#fef7e0"

    def __init__(self, *, run_uri: str, **kwargs: Any) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.run_uri = run_uri

    def execute(self, context: Context) -> None:
        """Choose the winner, and log it."""
        from airsmith.contracts.run import Run
        from airsmith.pipeline.sweep import choose_winner

        with typed_errors(self.log):
            winner = choose_winner(Run.open(self.run_uri))
        self.log.info("The winner is %s, with a validation loss of %s", winner.name, winner.eval_loss)


def trial_tasks(
    recipe: Recipe, plan: Plan, settings: Settings, dag: DAG, task_group: TaskGroup
) -> tuple[BaseOperator, BaseOperator]:
    """The tasks that replace the training: for each rung its begin and its trainings, then the choice.

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
            trigger_rule="all_success" if trainings is None else ALL_DONE,
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
        trigger_rule=ALL_DONE,
        **light,
    )
    choose.set_upstream(trainings)
    assert first is not None
    return first, choose
