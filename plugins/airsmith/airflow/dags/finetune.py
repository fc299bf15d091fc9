"""The DAGs of a folder of recipes: form, task groups, assets. Parsing reads files and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Param, TaskGroup
from airflow.sdk.definitions.param import ParamsDict

from airsmith.airflow.assets import dataset_asset, model_asset
from airsmith.airflow.operators.resolve import BrokenRecipeOperator, ResolveOperator
from airsmith.airflow.retry_policy import retry_options
from airsmith.airflow.runtime import runtime_of
from airsmith.contracts.spec import Plan, StagePlan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.graph import GROUPS, dag_id_of, group_of, upstream_stages
from airsmith.pipeline.pages import STAGE_SUMMARIES, broken_page, dag_page
from airsmith.pipeline.plan import check_nodes, make_plan
from airsmith.recipe import Recipe
from airsmith.recipe.form import form_fields
from airsmith.recipe.load import load_recipe
from airsmith.recipe.recipe import ON_DATASET_UPDATE
from airsmith.settings import Settings, load_settings

TrialTasks = Callable[[Recipe, Plan, Settings, DAG, TaskGroup], tuple[BaseOperator, BaseOperator]]
"""Adds tasks to a task group, and returns the first and the last of them."""

RUN_URI = "{{ ti.xcom_pull(task_ids='resolve') }}"


def recipe_dags(folder: Path) -> list[DAG]:
    """One DAG per recipe file. A broken recipe gets a DAG that reports its error and does not affect the others.

    :param folder: folder of the recipes, `*.yaml` or `*.yml`.
    """
    settings = load_settings()
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".yaml", ".yml"):
            files[dag_id_of(file)].append(file)
    return [_dag_of_files(dag_id, same_id, settings) for dag_id, same_id in files.items()]


def build_dag(recipe: Recipe, file: Path, settings: Settings, trials: TrialTasks | None = None) -> DAG:
    """The DAG of a recipe.

    :param trials: adds the tasks that replace the training when the recipe's sweep is run.
    :raises AirsmithError: `bad_recipe` if the backend cannot run it.
    """
    plan = make_plan(recipe, is_sweep=trials is not None)
    check_nodes(recipe, settings)
    dag = _empty_dag(recipe, plan, file, settings, is_sweep=trials is not None)
    before = _resolve_and_preflight(dag, plan, file, settings, is_sweep=trials is not None)
    ends = _stage_tasks(dag, recipe, plan, settings, trials)
    for stage, upstream in upstream_stages(ends).items():
        ends[stage][0].set_upstream([ends[source][1] for source in upstream] or before)
    # Last, because a task copies its DAG's params on creation: most of the parsing time, and of the serialized DAG.
    dag.params = ParamsDict(form_params(recipe))
    return dag


def _empty_dag(recipe: Recipe, plan: Plan, file: Path, settings: Settings, *, is_sweep: bool) -> DAG:
    return DAG(
        dag_id_of(file, "sweep" if is_sweep else "finetune"),
        description=recipe.description or f"Fine-tunes {recipe.model.id} on {recipe.dataset.id}",
        doc_md=dag_page(recipe, plan, file.name, file.read_text()),
        schedule=None if is_sweep else _schedule(recipe),
        catchup=False,
        max_active_runs=1,
        tags=_tags(recipe, settings),
        default_args={"owner": settings.team or "airsmith"},
    )


def _resolve_and_preflight(dag: DAG, plan: Plan, file: Path, settings: Settings, *, is_sweep: bool) -> BaseOperator:
    """The tasks before all stages.

    :returns: the last of them.
    """
    resolve = ResolveOperator(
        task_id="resolve",
        recipe_file=str(file),
        is_sweep=is_sweep,
        dag=dag,
        doc_md=STAGE_SUMMARIES["resolve"],
        **retry_options(settings, plan.backend),
    )
    preflight = runtime_of(settings).preflight_task(
        task_id="preflight",
        run_uri=RUN_URI,
        dag=dag,
        doc_md=STAGE_SUMMARIES["preflight"],
        **retry_options(settings, "cpu"),
    )
    if preflight is None:
        return resolve
    preflight.set_upstream(resolve)
    return preflight


def _stage_tasks(
    dag: DAG, recipe: Recipe, plan: Plan, settings: Settings, trials: TrialTasks | None
) -> dict[str, tuple[BaseOperator, BaseOperator]]:
    """The first and the last task of each stage; a sweep's training has several, any other stage one."""
    groups = _groups(dag, plan)
    ends = {}
    for stage in plan.stages:
        if trials is not None and stage.stage == "train":
            ends[stage.stage] = trials(recipe, plan, settings, dag, groups["train"])
        else:
            task = _stage_task(stage, recipe, settings, dag=dag, task_group=groups[group_of(stage.stage)])
            ends[stage.stage] = (task, task)
    return ends


def form_params(recipe: Recipe) -> dict[str, Param]:
    """The trigger form: every field that varies between runs, with the recipe's value as its default."""
    return {field.name: Param(field.default, **field.schema) for field in form_fields(recipe)}


def _dag_of_files(dag_id: str, files: list[Path], settings: Settings) -> DAG:
    try:
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise AirsmithError(
                ErrorKind.BAD_RECIPE, f"{names} would both become the DAG {dag_id}.", "Rename all but one of them."
            )
        return build_dag(load_recipe(files[0]), files[0], settings)
    except AirsmithError as error:
        return _broken_dag(dag_id, files[0], error)
    except Exception as failure:  # An unexpected error in one recipe must not hide the DAGs of the others.
        return _broken_dag(dag_id, files[0], AirsmithError(ErrorKind.INTERNAL, f"{type(failure).__name__}: {failure}"))


def _broken_dag(dag_id: str, file: Path, error: AirsmithError) -> DAG:
    dag = DAG(
        dag_id,
        description=f"Broken: {error.message}",
        doc_md=broken_page(file.name, error),
        schedule=None,
        catchup=False,
        tags=["broken"],
    )
    BrokenRecipeOperator(
        task_id="resolve",
        kind=error.kind.value,
        message=error.message,
        hint=error.hint,
        dag=dag,
        retries=0,
        doc_md=broken_page(file.name, error),
    )
    return dag


def mapped_training(run_uris: Any, recipe: Recipe, settings: Settings, **options: Any) -> Any:
    """One training for each of several runs, mapped at run time.

    :param run_uris: the output of the task that lists them.
    """
    retries = retry_options(settings, recipe.backend.name)
    return runtime_of(settings).mapped_training(run_uris, recipe, settings, **options, **retries)


def _groups(dag: DAG, plan: Plan) -> dict[str, TaskGroup]:
    return {
        group: TaskGroup(f"{group}_stages", group_display_name=group, prefix_group_id=False, dag=dag)
        for group, stages in GROUPS.items()
        if any(plan.has(stage) for stage in stages)
    }


def _stage_task(stage: StagePlan, recipe: Recipe, settings: Settings, **where: Any) -> BaseOperator:
    options: dict[str, Any] = {
        "task_id": stage.stage,
        "run_uri": RUN_URI,
        "doc_md": STAGE_SUMMARIES[stage.stage],
        **retry_options(settings, stage.backend),
        **where,
    }
    if stage.stage == "mirror_dataset":
        options["inlets"] = [dataset_asset(recipe)]
    if stage.stage == "register":
        options["outlets"] = [model_asset(recipe, settings)]
    return runtime_of(settings).stage_task(stage, recipe, settings, **options)


def _schedule(recipe: Recipe) -> str | list[Asset] | None:
    """The DAG's schedule.

    :raises AirsmithError: `bad_recipe` if it is invalid: Airflow itself would reject the DAGs of all recipes.
    """
    if recipe.schedule == ON_DATASET_UPDATE:
        return [dataset_asset(recipe)]
    if recipe.schedule is not None and not _is_cron(recipe.schedule):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"schedule is {recipe.schedule!r}, which is not a valid cron expression.",
            f"Use a cron expression such as '0 3 * * 1' (Mondays at 03:00) or {ON_DATASET_UPDATE!r}, or none.",
        )
    return recipe.schedule


def _is_cron(schedule: str) -> bool:
    from croniter import croniter  # type: ignore[import-untyped]  # Takes 15 ms of every parse, and few recipes need it.

    return bool(croniter.is_valid(schedule))


def _tags(recipe: Recipe, settings: Settings) -> list[str]:
    base = recipe.model.id.rstrip("/").rsplit("/", 1)[-1]
    return [tag[:100] for tag in (recipe.backend.name, recipe.method.name, base, settings.team) if tag]
