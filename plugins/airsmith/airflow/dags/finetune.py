"""From a folder of recipes to Airflow DAGs: form, task groups, assets. Parsing reads files and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Param, TaskGroup
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.param import ParamsDict

from airsmith.airflow.connections import connection_password
from airsmith.airflow.operators.base import typed_errors
from airsmith.airflow.retry_policy import RetryByKind
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
from airsmith.recipe.sources import source_kind
from airsmith.settings import Settings, load_settings

TrialTasks = Callable[[Recipe, Plan, Settings, DAG, TaskGroup], tuple[BaseOperator, BaseOperator]]
"""Makes tasks in a DAG's group, and returns the first and the last of them."""

OVERRIDES = "overrides"
RUN_URI = "{{ ti.xcom_pull(task_ids='resolve') }}"


def recipe_dags(folder: Path) -> list[DAG]:
    """One DAG per recipe file. A file that cannot be run gets a DAG that says so, and leaves the others alone.

    :param folder: holds the recipes, `*.yaml` or `*.yml`.
    """
    settings = load_settings()
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".yaml", ".yml"):
            files[dag_id_of(file)].append(file)
    return [_dag_of_files(dag_id, same_id, settings) for dag_id, same_id in files.items()]


def build_dag(recipe: Recipe, file: Path, settings: Settings, trials: TrialTasks | None = None) -> DAG:
    """The DAG of a recipe.

    :param trials: makes the tasks that stand in the training's place, where the recipe's sweep is run.
    :raises AirsmithError: `bad_recipe` where the backend cannot run it.
    """
    plan = make_plan(recipe, is_sweep=trials is not None)
    check_nodes(recipe, settings)
    dag = DAG(
        dag_id_of(file, "finetune" if trials is None else "sweep"),
        description=recipe.description or f"Fine-tunes {recipe.model.id} on {recipe.dataset.id}",
        doc_md=dag_page(recipe, plan, file.name, file.read_text()),
        schedule=_schedule(recipe) if trials is None else None,
        catchup=False,
        max_active_runs=1,
        tags=_tags(recipe, settings),
        default_args={"owner": settings.team or "airsmith"},
    )
    resolve = ResolveOperator(
        task_id="resolve",
        recipe_file=str(file),
        is_sweep=trials is not None,
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
    if preflight is not None:
        preflight.set_upstream(resolve)
    groups = _groups(dag, plan)
    ends = {
        stage.stage: _both(_stage_task(stage, recipe, settings, dag=dag, task_group=groups[group_of(stage.stage)]))
        if trials is None or stage.stage != "train"
        else trials(recipe, plan, settings, dag, groups["train"])
        for stage in plan.stages
    }
    for stage, upstream in upstream_stages(ends).items():
        ends[stage][0].set_upstream([ends[source][1] for source in upstream] or preflight or resolve)
    # Last, because a task copies the params that its DAG has when it is made: most of a parse, and of the stored DAG.
    dag.params = ParamsDict(form_params(recipe))
    return dag


def form_params(recipe: Recipe) -> dict[str, Param]:
    """The trigger form: every field that a person would vary between runs, the recipe's value as its default."""
    return {field.name: Param(field.default, **field.schema) for field in form_fields(recipe)}


class ResolveOperator(BaseOperator):
    """Decide the run: merge, check and pin the recipe, and write the spec that every stage reads.

    :param recipe_file: path of the recipe.
    :param is_sweep: whether the recipe's trials are run, and not the recipe as it is.
    """

    ui_color = "#fef7e0"

    def __init__(self, *, recipe_file: str, is_sweep: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe_file = recipe_file
        self.is_sweep = is_sweep

    def execute(self, context: Context) -> str:
        """Resolve the run.

        :returns: URI of the run's folder, the only thing that travels between tasks.
        :raises StageError: with the recipe's own message.
        """
        from airsmith.pipeline.resolve import RunRequest, resolve

        form = dict(context["params"])
        request = RunRequest(
            dag_id=context["dag"].dag_id,
            run_id=context["run_id"],
            recipe_file=Path(self.recipe_file),
            overrides=form.pop(OVERRIDES, None) or {},
            form=form,
            bundle_version=_bundle_version(context),
            is_sweep=self.is_sweep,
        )
        with typed_errors(self.log):
            run = resolve(request, load_settings(), connection_password)
        self.log.info("This run's folder is %s", run.uri)
        return run.uri


class BrokenRecipeOperator(BaseOperator):
    """The only task of a recipe that cannot be run: it fails with what is wrong.

    :param kind: of the error.
    """

    ui_color = "#fce8e6"

    def __init__(self, *, kind: str, message: str, hint: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.message, self.hint = kind, message, hint

    def execute(self, context: Context) -> None:
        """Fail.

        :raises StageError: always.
        """
        with typed_errors(self.log):
            raise AirsmithError(ErrorKind(self.kind), self.message, self.hint)


def _bundle_version(context: Context) -> str | None:
    """Commit of the bundle that this run is pinned to; `dag.test()` knows no bundle."""
    bundle = getattr(context["ti"], "bundle_instance", None)
    return None if bundle is None else bundle.version


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
    except Exception as failure:  # Whatever one file provokes, the others' DAGs must appear.
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
    """One training for each of several runs, mapped when the run begins.

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


def _both(task: BaseOperator) -> tuple[BaseOperator, BaseOperator]:
    """A stage's first task and its last, where it has but one."""
    return task, task


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


def retry_options(settings: Settings, backend: str) -> dict[str, Any]:
    """What the deployment decides about the tasks of a backend."""
    chosen = settings.backend(backend)
    options: dict[str, Any] = {
        "retries": chosen.retries,
        "retry_policy": RetryByKind(timedelta(seconds=chosen.retry_delay_seconds)),
        "retry_delay": timedelta(seconds=chosen.retry_delay_seconds),
    }
    if chosen.timeout_seconds is not None:
        options["execution_timeout"] = timedelta(seconds=chosen.timeout_seconds)
    if chosen.pool is not None:
        options["pool"] = chosen.pool
    return options


def model_asset(recipe: Recipe, settings: Settings) -> Asset:
    """The tuned model as Airflow shows it: a mirror of the registry that decides nothing."""
    return Asset(name=f"model/{recipe.name}", uri=f"{settings.store.rstrip('/')}/models/{recipe.name}", group="model")


def dataset_asset(recipe: Recipe) -> Asset:
    """The dataset as Airflow shows it; updated from outside only."""
    source = recipe.dataset.id
    uri = source if source_kind(source) == "store" else f"hf://datasets/{source}"
    return Asset(name=f"dataset/{source.split('://')[-1].strip('/')}", uri=uri, group="dataset")


def _schedule(recipe: Recipe) -> str | list[Asset] | None:
    """The DAG's schedule.

    :raises AirsmithError: `bad_recipe`: Airflow itself would refuse the whole file, with the DAGs of all recipes.
    """
    if recipe.schedule == ON_DATASET_UPDATE:
        return [dataset_asset(recipe)]
    if recipe.schedule is not None and not _is_cron(recipe.schedule):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"schedule is {recipe.schedule!r}, which is no cron expression.",
            f"Write for example '0 3 * * 1' (Mondays at three), {ON_DATASET_UPDATE!r}, or leave it out.",
        )
    return recipe.schedule


def _is_cron(schedule: str) -> bool:
    from croniter import croniter  # type: ignore[import-untyped]  # 15 ms of every parse, for few recipes

    return bool(croniter.is_valid(schedule))


def _tags(recipe: Recipe, settings: Settings) -> list[str]:
    base = recipe.model.id.rstrip("/").rsplit("/", 1)[-1]
    return [tag[:100] for tag in (recipe.backend.name, recipe.method.name, base, settings.team) if tag]
