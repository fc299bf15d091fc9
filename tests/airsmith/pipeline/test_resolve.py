"""`resolve`: what it decides, and that a bad request gets a sentence and leaves nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import airsmith
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.resolve import RunRequest, resolve
from airsmith.registry import ModelVersionDraft, register_version
from airsmith.settings import LocalSettings, Settings
from demo.hub.server import Hub

WriteRecipe = Callable[..., Path]


def request(file: Path, **fields: Any) -> RunRequest:
    return RunRequest(dag_id="finetune_tickets", run_id="manual__2026-01-01T00:00:00+00:00", recipe_file=file, **fields)


def refusal(file: Path, settings: Settings, **fields: Any) -> AirsmithError:
    """Why `resolve` refuses, after a look at what it left behind."""
    with pytest.raises(AirsmithError) as failure:
        resolve(request(file, **fields), settings)
    assert list(Store.open(settings.store).list("")) == []
    return failure.value


def test_the_spec_holds_all_that_was_decided(write_recipe: WriteRecipe, settings: Settings, hub: Hub):
    form = {"training__max_steps": 7, "training__seed": 42}
    run = resolve(
        request(
            write_recipe(),
            form=form,
            overrides={"training": {"warmup_ratio": 0.5}, "dataset.max_length": 64},
            bundle_version="c0ffee",
        ),
        settings,
    )
    spec = run.read_spec()
    assert (spec.recipe.training.max_steps, spec.recipe.training.warmup_ratio) == (7, 0.5)
    assert spec.changed_fields == ("dataset.max_length", "training.max_steps", "training.warmup_ratio")
    assert len(spec.recipe.model.revision) == len(spec.recipe.dataset.revision) == 40
    assert spec.plan.batch.per_device_train_batch_size == 8
    assert (spec.bundle_version, spec.airsmith_version) == ("c0ffee", airsmith.__version__)
    assert spec.toolchain_version("train", "torch") == "1.2.3"
    assert spec.toolchain_version("tokenize", "datasets") == "1.2.3"
    assert run.uri.startswith(f"{settings.store}/runs/finetune_tickets/manual")


def test_the_same_request_names_the_same_folder(write_recipe: WriteRecipe, settings: Settings):
    first, second = (resolve(request(write_recipe()), settings) for _ in range(2))
    assert first == second
    assert first.read_spec().recipe_digest == second.read_spec().recipe_digest


def test_a_commit_is_pinned_to_itself(write_recipe: WriteRecipe, settings: Settings):
    commit = resolve(request(write_recipe()), settings).read_spec().recipe.model.revision
    file = write_recipe(model={"id": "demo/model", "revision": commit})
    assert resolve(request(file), settings).read_spec().recipe.model.revision == commit


@pytest.mark.parametrize(
    ("model", "kind", "said", "remedy"),
    [
        ({"id": "demo/absent"}, ErrorKind.NOT_FOUND, "There is no model demo/absent on", "model.id"),
        ({"id": "demo/private"}, ErrorKind.NOT_FOUND, "demo/private", "secrets.hf_token"),
        ({"id": "demo/gated"}, ErrorKind.ACCESS_DENIED, "demo/gated is gated", "secrets.hf_token"),
        ({"id": "demo/model", "revision": "gone"}, ErrorKind.NOT_FOUND, "no revision 'gone'", "model.revision"),
        ({"id": "models/tickets/9"}, ErrorKind.NOT_FOUND, "9", ""),
        ({"id": "demo/-.bad"}, ErrorKind.BAD_RECIPE, "demo/-.bad", "owner/name"),
    ],
)
def test_a_model_out_of_reach_is_named(
    write_recipe: WriteRecipe, settings: Settings, model: dict[str, str], kind: ErrorKind, said: str, remedy: str
):
    error = refusal(write_recipe(model=model), settings)
    assert error.kind is kind
    assert said in error.message
    assert remedy in error.hint


def test_a_dataset_out_of_reach_is_named_by_its_own_fields(write_recipe: WriteRecipe, settings: Settings):
    error = refusal(write_recipe(dataset={"id": "demo/absent", "validation_split": "validation"}), settings)
    assert "There is no dataset demo/absent on" in error.message
    assert "dataset.id" in error.hint


def test_a_token_opens_what_is_gated_and_stays_out_of_the_spec(
    write_recipe: WriteRecipe, settings: Settings, token: str, monkeypatch: pytest.MonkeyPatch
):
    file = write_recipe(model={"id": "demo/gated"}, secrets={"hf_token": {"environment": "TEAM_HUB"}})
    error = refusal(file, settings)
    assert "TEAM_HUB, which is not set" in error.message
    monkeypatch.setenv("TEAM_HUB", token)
    run = resolve(request(file), settings)
    assert token.encode() not in run.read("spec.json")


def test_the_token_may_lie_in_a_connection(write_recipe: WriteRecipe, settings: Settings, token: str):
    file = write_recipe(model={"id": "demo/private"}, secrets={"hf_token": {"airflow_connection": "hub"}})
    run = resolve(request(file), settings, {"hub": token}.__getitem__)
    assert token.encode() not in run.read("spec.json")


def test_a_wrong_token_is_refused_by_name(
    write_recipe: WriteRecipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    error = refusal(write_recipe(), settings)
    assert error.kind is ErrorKind.ACCESS_DENIED
    assert "refused the token" in error.message


def test_a_silent_hub_is_given_up_in_bounded_time(
    write_recipe: WriteRecipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("airsmith.hub.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = refusal(write_recipe(), settings.model_copy(update={"hub_endpoint": address}))
    assert error.kind is ErrorKind.HUB_UNAVAILABLE
    assert address in error.message


def test_a_hub_that_is_not_there_is_named(write_recipe: WriteRecipe, settings: Settings):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    error = refusal(write_recipe(), settings.model_copy(update={"hub_endpoint": address}))
    assert error.kind is ErrorKind.HUB_UNAVAILABLE


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training.learning_rat": 0.1}, "did you mean training.learning_rate?"),
        ({"training": {"max_steps": 0}}, "training.max_steps is 0"),
        ({"backend.devices": 4}, "backend shapes the DAG"),
        ({"backend": {"name": "cuda"}}, "backend shapes the DAG"),
        ({"serve.enabled": False}, "serve.enabled shapes the DAG"),
        ({"schedule": "@daily"}, "schedule shapes the DAG"),
        ({"training.num_train_epochs": 2}, "training.num_train_epochs and training.max_steps exclude each other"),
    ],
)
def test_a_bad_override_gets_the_recipes_own_message(
    write_recipe: WriteRecipe, settings: Settings, overrides: dict[str, Any], said: str
):
    error = refusal(write_recipe(), settings, overrides=overrides)
    assert error.kind is ErrorKind.BAD_RECIPE
    assert said in error.message


def test_what_the_backend_cannot_run_is_refused(write_recipe: WriteRecipe, settings: Settings):
    error = refusal(write_recipe(), settings, form={"method__name": "qlora"})
    assert "backend.name 'cpu' cannot run" in error.message


def test_a_store_folder_is_pinned_to_what_it_holds(write_recipe: WriteRecipe, settings: Settings, tmp_path: Path):
    folder = tmp_path / "examples"
    folder.mkdir()
    file = write_recipe(dataset={"id": f"file://{folder}", "validation_fraction": 0.1})
    assert refusal(file, settings).kind is ErrorKind.NOT_FOUND
    (folder / "train.jsonl").write_text("{}\n")
    before = resolve(request(file), settings).read_spec().recipe.dataset.revision
    assert resolve(request(file), settings).read_spec().recipe.dataset.revision == before
    (folder / "more.jsonl").write_text("{}\n")
    assert resolve(request(file), settings).read_spec().recipe.dataset.revision != before


def test_an_environment_without_the_libraries_is_named(
    write_recipe: WriteRecipe, settings: Settings, stages_python: Path, tmp_path: Path
):
    empty = tmp_path / "venv" / "bin" / "python"
    empty.parent.mkdir(parents=True)
    empty.touch()
    error = refusal(write_recipe(), settings.model_copy(update={"local": LocalSettings(stages_python=empty)}))
    assert error.kind is ErrorKind.NOT_FOUND
    assert "Stage tokenize needs transformers" in error.message


def test_a_base_from_the_registry_needs_no_pin(write_recipe: WriteRecipe, settings: Settings):
    draft = ModelVersionDraft(digest="d", model="m", base_model="b", base={"id": "demo/model"}, recipe_digest="r")
    register_version(Store.open(settings.store), "tickets", draft)
    file = write_recipe(model={"id": "models/tickets/1"})
    assert resolve(request(file), settings).read_spec().recipe.model.id == "models/tickets/1"
