"""`resolve` writes a spec with everything resolved, or refuses the request and writes nothing."""

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
from airsmith.registry import register_version
from airsmith.settings import LocalSettings, Settings
from demo.hub.server import Hub
from tests.support.registry import version_draft

WriteRecipe = Callable[..., Path]


def request(file: Path, **fields: Any) -> RunRequest:
    return RunRequest(dag_id="finetune_tickets", run_id="manual__2026-01-01T00:00:00+00:00", recipe_file=file, **fields)


def refusal(file: Path, settings: Settings, **fields: Any) -> AirsmithError:
    """The error of a request that `resolve` refuses without writing anything."""
    with pytest.raises(AirsmithError) as failure:
        resolve(request(file, **fields), settings)
    assert list(Store.open(settings.store).list("")) == []
    return failure.value


def test_the_spec_has_everything_that_was_resolved(write_recipe: WriteRecipe, settings: Settings, hub: Hub):
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


def test_the_same_request_resolves_to_the_same_run(write_recipe: WriteRecipe, settings: Settings):
    first, second = (resolve(request(write_recipe()), settings) for _ in range(2))
    assert first == second
    assert first.read_spec().recipe_digest == second.read_spec().recipe_digest


def test_a_commit_revision_is_kept(write_recipe: WriteRecipe, settings: Settings):
    commit = resolve(request(write_recipe()), settings).read_spec().recipe.model.revision
    file = write_recipe(model={"id": "demo/model", "revision": commit})
    assert resolve(request(file), settings).read_spec().recipe.model.revision == commit


@pytest.mark.parametrize(
    ("model", "kind", "message", "remedy"),
    [
        ({"id": "demo/absent"}, ErrorKind.NOT_FOUND, "The model demo/absent does not exist on", "model.id"),
        ({"id": "demo/private"}, ErrorKind.NOT_FOUND, "demo/private", "secrets.hf_token"),
        ({"id": "demo/gated"}, ErrorKind.ACCESS_DENIED, "demo/gated is gated", "secrets.hf_token"),
        ({"id": "demo/model", "revision": "gone"}, ErrorKind.NOT_FOUND, "no revision 'gone'", "model.revision"),
        ({"id": "models/tickets/9"}, ErrorKind.NOT_FOUND, "9", ""),
        ({"id": "demo/-.bad"}, ErrorKind.BAD_RECIPE, "demo/-.bad", "owner/name"),
    ],
)
def test_an_inaccessible_model_is_reported(
    write_recipe: WriteRecipe, settings: Settings, model: dict[str, str], kind: ErrorKind, message: str, remedy: str
):
    error = refusal(write_recipe(model=model), settings)
    assert error.kind is kind
    assert message in error.message
    assert remedy in error.hint


def test_an_inaccessible_dataset_is_reported_with_its_own_fields(write_recipe: WriteRecipe, settings: Settings):
    error = refusal(write_recipe(dataset={"id": "demo/absent", "validation_split": "validation"}), settings)
    assert "The dataset demo/absent does not exist on" in error.message
    assert "dataset.id" in error.hint


def test_a_token_gives_access_to_a_gated_model_and_is_not_in_the_spec(
    write_recipe: WriteRecipe, settings: Settings, token: str, monkeypatch: pytest.MonkeyPatch
):
    file = write_recipe(model={"id": "demo/gated"}, secrets={"hf_token": {"environment": "TEAM_HUB"}})
    error = refusal(file, settings)
    assert "TEAM_HUB, which is not set" in error.message
    monkeypatch.setenv("TEAM_HUB", token)
    run = resolve(request(file), settings)
    assert token.encode() not in run.read("spec.json")


def test_the_token_can_come_from_a_connection(write_recipe: WriteRecipe, settings: Settings, token: str):
    file = write_recipe(model={"id": "demo/private"}, secrets={"hf_token": {"airflow_connection": "hub"}})
    run = resolve(request(file), settings, {"hub": token}.__getitem__)
    assert token.encode() not in run.read("spec.json")


def test_an_invalid_token_is_reported(write_recipe: WriteRecipe, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    error = refusal(write_recipe(), settings)
    assert error.kind is ErrorKind.ACCESS_DENIED
    assert "rejected the token" in error.message


def test_an_unresponsive_hub_times_out(write_recipe: WriteRecipe, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("airsmith.hub.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as unresponsive:
        address = f"http://127.0.0.1:{unresponsive.getsockname()[1]}"
        error = refusal(write_recipe(), settings.model_copy(update={"hub_endpoint": address}))
    assert error.kind is ErrorKind.HUB_UNAVAILABLE
    assert address in error.message


def test_an_unreachable_hub_is_reported(write_recipe: WriteRecipe, settings: Settings):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    error = refusal(write_recipe(), settings.model_copy(update={"hub_endpoint": address}))
    assert error.kind is ErrorKind.HUB_UNAVAILABLE


@pytest.mark.parametrize(
    ("overrides", "message"),
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
def test_an_invalid_override_is_reported_as_in_a_recipe(
    write_recipe: WriteRecipe, settings: Settings, overrides: dict[str, Any], message: str
):
    error = refusal(write_recipe(), settings, overrides=overrides)
    assert error.kind is ErrorKind.BAD_RECIPE
    assert message in error.message


def test_what_the_backend_does_not_support_is_refused(write_recipe: WriteRecipe, settings: Settings):
    error = refusal(write_recipe(), settings, form={"method__name": "qlora"})
    assert "backend.name 'cpu' does not support" in error.message


def test_a_dataset_folder_is_pinned_to_its_content(write_recipe: WriteRecipe, settings: Settings, tmp_path: Path):
    folder = tmp_path / "examples"
    folder.mkdir()
    file = write_recipe(dataset={"id": f"file://{folder}", "validation_fraction": 0.1})
    assert refusal(file, settings).kind is ErrorKind.NOT_FOUND
    (folder / "train.jsonl").write_text("{}\n")
    before = resolve(request(file), settings).read_spec().recipe.dataset.revision
    assert resolve(request(file), settings).read_spec().recipe.dataset.revision == before
    (folder / "more.jsonl").write_text("{}\n")
    assert resolve(request(file), settings).read_spec().recipe.dataset.revision != before


def test_an_environment_without_the_libraries_is_reported(
    write_recipe: WriteRecipe, settings: Settings, stages_python: Path, tmp_path: Path
):
    empty = tmp_path / "venv" / "bin" / "python"
    empty.parent.mkdir(parents=True)
    empty.touch()
    error = refusal(write_recipe(), settings.model_copy(update={"local": LocalSettings(stages_python=empty)}))
    assert error.kind is ErrorKind.NOT_FOUND
    assert "Stage tokenize needs transformers" in error.message


def test_a_base_model_from_the_registry_needs_no_pin(write_recipe: WriteRecipe, settings: Settings):
    draft = version_draft(model="m", base_model="b", base={"id": "demo/model"})
    register_version(Store.open(settings.store), "tickets", draft)
    file = write_recipe(model={"id": "models/tickets/1"})
    assert resolve(request(file), settings).read_spec().recipe.model.id == "models/tickets/1"
