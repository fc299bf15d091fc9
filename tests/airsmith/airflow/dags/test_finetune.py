"""Recipes become DAGs in Airflow's DAG bag, with trigger form, graph and assets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, Param
from airflow.serialization.serialized_objects import DagSerialization
from jsonschema import Draft202012Validator, validate

from airsmith.airflow.dags.finetune import recipe_dags
from airsmith.errors import ErrorKind
from airsmith.errors.stage_errors import BadRecipeError
from airsmith.recipe.form import MAX_OPEN_FIELDS, fixed_keys

DAGS = Path("dags").absolute()
RECIPES = sorted((DAGS / "recipes").glob("*.yaml"))
WriteRecipe = Callable[..., Path]


@pytest.fixture(scope="module")
def bag() -> BundleDagBag:
    """The repository's DAGs as Airflow loads them, without a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("a DAG file opened a connection while it was parsed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags")


def dag_of(file: Path) -> DAG:
    """The DAG of a recipe file."""
    return next(dag for dag in recipe_dags(file.parent) if dag.dag_id == f"finetune_{file.stem.replace('-', '_')}")


def recipe_dags_of(bag: BundleDagBag) -> list[DAG]:
    """The DAGs of recipes."""
    return [dag for dag_id, dag in bag.dags.items() if dag_id.startswith("finetune_")]


def test_every_shipped_recipe_becomes_a_dag(bag: BundleDagBag):
    assert bag.import_errors == {}
    assert {dag.dag_id: dag.tags & {"broken"} for dag in recipe_dags_of(bag)} == {
        f"finetune_{file.stem.replace('-', '_')}": set() for file in RECIPES
    }


def test_every_dag_can_be_serialized(bag: BundleDagBag):
    for dag in recipe_dags_of(bag):
        again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        assert set(again.task_ids) == set(dag.task_ids)
        assert again.get_task("train").has_retry_policy


def test_the_graph_has_the_stages_in_order_and_in_groups(bag: BundleDagBag):
    dag = bag.dags["finetune_ticket_triage"]
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "resolve": set(),
        "mirror_model": {"resolve"},
        "mirror_dataset": {"resolve"},
        "tokenize": {"mirror_model", "mirror_dataset"},
        "train": {"tokenize"},
        "merge": {"train"},
        "evaluate": {"merge"},
        "register": {"evaluate"},
        "deploy": {"register"},
        "smoke_test": {"deploy"},
    }
    groups = {group.group_display_name: set(group.children) for group in dag.task_group_dict.values() if group.group_id}
    assert groups == {
        "prepare": {"mirror_model", "mirror_dataset", "tokenize"},
        "train": {"train"},
        "validate": {"merge", "evaluate"},
        "ship": {"register", "deploy", "smoke_test"},
    }


def test_on_kubernetes_every_stage_is_downstream_of_preflight(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AIRSMITH_RUNTIME", "kubernetes")
    dag = dag_of(write_recipe())
    upstream = {task.task_id: task.upstream_task_ids for task in dag.tasks}
    assert upstream["preflight"] == {"resolve"}
    assert upstream["mirror_model"] == upstream["mirror_dataset"] == {"preflight"}
    assert dag.get_task("preflight").run_uri == dag.get_task("train").run_uri
    assert dag.get_task("preflight").doc_md


def test_only_the_run_uri_is_passed_by_xcom(bag: BundleDagBag):
    for dag in recipe_dags_of(bag):
        for task in dag.tasks:
            assert task.do_xcom_push is (task.task_id == "resolve")
            assert task.task_id == "resolve" or task.run_uri == "{{ ti.xcom_pull(task_ids='resolve') }}"


def test_a_recipe_without_serving_has_no_deploy_task(write_recipe: WriteRecipe):
    dag = dag_of(write_recipe(serve={"enabled": False}))
    assert not {"deploy", "smoke_test"} & set(dag.task_ids)


def test_the_model_is_the_only_outlet_and_the_dataset_the_only_inlet(bag: BundleDagBag):
    dag = bag.dags["finetune_ticket_triage"]
    outlets = {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks if task.outlets}
    inlets = {task.task_id: [asset.name for asset in task.inlets] for task in dag.tasks if task.inlets}
    assert outlets == {"register": ["model/ticket-triage"]}
    assert inlets == {"mirror_dataset": ["dataset/airsmith/ticket-triage"]}
    (asset,) = dag.get_task("register").outlets
    assert asset.uri.endswith("/models/ticket-triage")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(None, "NullTimetable"), ("0 3 * * 1", "CronTriggerTimetable"), ("dataset_updated", "AssetTriggeredTimetable")],
)
def test_the_schedule_of_the_recipe_is_that_of_the_dag(write_recipe: WriteRecipe, schedule: str | None, expected: str):
    dag = dag_of(write_recipe(schedule=schedule))
    assert type(dag.timetable).__name__ == expected
    assert not dag.catchup
    dag.validate()


def test_a_dataset_in_a_store_is_an_asset_with_its_uri(write_recipe: WriteRecipe):
    dag = dag_of(
        write_recipe(schedule="dataset_updated", dataset={"id": "s3://data/tickets", "validation_fraction": 0.1})
    )
    (asset,) = dag.get_task("mirror_dataset").inlets
    assert (asset.name, asset.uri) == ("dataset/data/tickets", "s3://data/tickets")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_trigger_form_is_valid(bag: BundleDagBag, file: Path):
    dag = bag.dags[f"finetune_{file.stem.replace('-', '_')}"]
    params: dict[str, Param] = {name: dag.params.get_param(name) for name in dag.params}
    for name, param in params.items():
        Draft202012Validator.check_schema(param.schema)
        validate(param.value, param.schema)
        assert "anyOf" not in param.schema, name
        assert "$ref" not in str(param.schema), name
        assert param.schema["title"], name
        assert param.schema["description_md"], name
    open_fields = [name for name, param in params.items() if "section" not in param.schema]
    assert 0 < len(open_fields) <= MAX_OPEN_FIELDS
    assert open_fields == list(params)[: len(open_fields)]
    keys = [name.replace("__", ".") for name in params]
    assert "overrides" in keys
    assert not [key for key in keys for fixed in fixed_keys() if key == fixed or key.startswith(f"{fixed}.")]


def test_a_scheduled_run_needs_no_input(write_recipe: WriteRecipe):
    dag_of(write_recipe(schedule="@daily")).params.validate()


def test_the_settings_determine_pool_timeout_and_retries(write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"POOL": "slow", "RETRIES": "5", "TIMEOUT_SECONDS": "60"}.items():
        monkeypatch.setenv(f"AIRSMITH_BACKENDS__CPU__{name}", value)
    train = dag_of(write_recipe()).get_task("train")
    assert (train.pool, train.retries) == ("slow", 5)
    assert train.execution_timeout.total_seconds() == 60


def test_the_dag_docs_have_description_recipe_and_tasks(write_recipe: WriteRecipe):
    file = write_recipe(description="Routes tickets.")
    dag = dag_of(file)
    assert dag.doc_md.startswith("Routes tickets.")
    assert file.read_text().rstrip() in dag.doc_md
    assert all(f"`{task.task_id}`" in dag.doc_md for task in dag.tasks if task.task_id != "resolve")
    assert dag.tags == {"cpu", "lora", "model"}


def failure_of_only_task(dag: DAG) -> BadRecipeError:
    (task,) = dag.tasks
    with pytest.raises(BadRecipeError) as failure:
        task.execute({})
    return failure.value


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainig": {"max_steps": 1}}, "trainig is not a recipe key; did you mean training?"),
        ({"method": {"name": "qlora"}}, "backend.name 'cpu' does not support"),
        ({"backend": {"name": "neuron_xla"}}, "backend.instance_type is empty"),
        ({"schedule": "every now and then"}, "every now and then"),
    ],
)
def test_an_invalid_recipe_gives_a_broken_dag_and_keeps_the_others(
    write_recipe: WriteRecipe, sections: dict[str, Any], message: str
):
    valid, broken = dag_of(write_recipe()), dag_of(write_recipe("broken-one", **sections))
    assert "broken" not in valid.tags
    assert broken.tags == {"broken"}
    assert message in broken.doc_md
    error = failure_of_only_task(broken)
    assert error.kind is ErrorKind.BAD_RECIPE
    assert message in error.message


def test_invalid_yaml_gives_a_broken_dag(write_recipe: WriteRecipe):
    file = write_recipe("broken")
    file.write_text("model: [")
    assert "broken.yaml" in failure_of_only_task(dag_of(file)).message


def test_two_files_of_the_same_dag_are_both_named(write_recipe: WriteRecipe):
    write_recipe("a-b")
    error = failure_of_only_task(dag_of(write_recipe("a_b")))
    assert "a-b.yaml and a_b.yaml" in error.message


def test_an_unexpected_error_breaks_only_its_dag(write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch):
    write_recipe("valid")
    file = write_recipe("defective")

    def build(recipe: Any, path: Path, settings: Any) -> DAG:
        if path == file:
            raise RecursionError("too deep")
        return real(recipe, path, settings)

    from airsmith.airflow.dags import finetune as module

    real = module.build_dag
    monkeypatch.setattr(module, "build_dag", build)
    dags = {dag.dag_id: dag for dag in recipe_dags(file.parent)}
    assert dags["finetune_defective"].tags == {"broken"}
    assert "broken" not in dags["finetune_valid"].tags
