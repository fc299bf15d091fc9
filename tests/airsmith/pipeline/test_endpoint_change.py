"""What may be asked of an endpoint, and what one machine does of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airsmith.contracts.cache import Output
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.endpoint_change import ChangeRequest, checked_change, make_change
from airsmith.registry import ModelVersionDraft, promote, read_endpoint, register_version
from airsmith.serving.local.endpoint import stop_all
from tests.airsmith.serving.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, tmp_path / "venv/bin/python")
    machine.python.parent.mkdir(parents=True)
    machine.server_that()
    yield machine
    stop_all(machine.settings())


def register(machine: Machine, model: str, **recipe: Any) -> Run:
    """A run whose model is a version of the registry."""
    run = machine.run(model, **recipe)
    StageRecord.begin("evaluate", run).finish(Output("evaluation", model, "artifacts/evaluation/e", True), cached=False)
    draft = {
        "digest": model,
        "model": f"artifacts/model/{model}",
        "base_model": "artifacts/base_model/b",
        "run": run.path,
    }
    register_version(
        machine.store, "tiny", ModelVersionDraft.model_validate({**draft, "base": {"id": "b"}, "recipe_digest": "r"})
    )
    return run


def change(machine: Machine, action: str, run_id: str = "manual", **fields: Any) -> Run | None:
    request = ChangeRequest(checked_change({"action": action, **fields}), dag_id="endpoint", run_id=run_id)
    return make_change(request, machine.settings(), None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"action": "deploy"}, "The action deploy needs model."),
        ({"action": "deploy", "model": ""}, "The action deploy needs model."),
        ({"action": "shift_traffic"}, "The action shift_traffic needs endpoint and percent."),
        ({"action": "scale", "endpoint": "a"}, "The action scale needs replicas."),
        ({"action": "stop", "endpoint": "a", "percent": 0}, "The action stop does nothing with percent."),
        ({"action": "roll_back", "endpoint": "a", "model": "m"}, "The action roll_back does nothing with model."),
        ({"action": "scale", "endpoint": "a", "replicas": 2, "version": 1}, "does nothing with version"),
        ({"action": "deploy", "model": "m", "percent": 0}, "A version without requests is not deployed."),
        ({"action": "deploy", "model": "m", "replicas": 3}, "replicas makes a share, but percent asks for none"),
        ({"action": "shift_traffic", "endpoint": "a", "percent": 100, "replicas": 3}, "percent asks for none"),
        ({"action": "explode"}, "action"),
        ({"action": "deploy", "model": "m", "percent": 101}, "percent"),
        ({"action": "scale", "endpoint": "Not A Name", "replicas": 1}, "endpoint is 'Not A Name', but must match"),
        ({"action": "scale", "endpoint": "a", "replica": 1}, "replica is not a field; did you mean replicas?"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(values: dict[str, Any], said: str):
    with pytest.raises(AirsmithError) as refused:
        checked_change(values)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert said in refused.value.message


@pytest.mark.parametrize(
    "values",
    [
        {"action": "deploy", "model": "m"},
        {"action": "deploy", "model": "m", "version": 3, "endpoint": "a", "percent": 25, "replicas": 4},
        {"action": "shift_traffic", "endpoint": "a", "percent": 0},
        {"action": "shift_traffic", "endpoint": "a", "percent": 30, "replicas": 10},
        {"action": "roll_back", "endpoint": "a", "model": "", "version": None},
    ],
)
def test_what_makes_sense_is_taken(values: dict[str, Any]):
    assert checked_change(values).action == values["action"]


def test_a_version_is_deployed_as_its_run_would(machine: Machine):
    source = register(machine, "m1")
    register(machine, "m2")
    run = change(machine, "deploy", model="tiny", version=1)
    assert run is not None
    endpoint = read_endpoint(machine.store, "tiny")
    assert endpoint is not None
    assert (endpoint.current.version, endpoint.current.model_uri) == (1, "artifacts/model/m1")
    assert httpx.get(f"{endpoint.current.address}/health").is_success
    spec = run.read_spec()
    assert (spec.dag_id, spec.run_id) == ("endpoint", "manual")
    assert [stage.stage for stage in spec.plan.stages] == ["deploy", "smoke_test"]
    assert run.pointer("evaluate") == source.pointer("evaluate")
    deployed = run.pointer("deploy")
    assert deployed is not None
    assert deployed.revision == endpoint.current.id
    assert source.pointer("deploy") is None


def test_the_champion_is_deployed_where_no_version_is_named(machine: Machine):
    for model in ("m1", "m2"):
        register(machine, model)
    promote(machine.store, "tiny", 2, "better")
    change(machine, "deploy", model="tiny")
    endpoint = read_endpoint(machine.store, "tiny")
    assert endpoint is not None
    assert endpoint.current.version == 2


def test_a_version_goes_to_another_endpoint_even_of_a_recipe_that_serves_nothing(machine: Machine):
    register(machine, "m1", serve={"enabled": False})
    run = change(machine, "deploy", model="tiny", version=1, endpoint="staging")
    assert read_endpoint(machine.store, "tiny") is None
    assert run is not None
    assert run.read_spec().recipe.endpoint_name == "staging"
    assert change(machine, "stop", endpoint="staging") is None
    staging = read_endpoint(machine.store, "staging")
    assert staging is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{staging.current.address}/health")


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"model": "tiny", "version": 7}, "no version 7"), ({"model": "nobody"}, "There is no model nobody")],
)
def test_what_is_not_registered_is_told_and_leaves_nothing(machine: Machine, fields: dict[str, Any], said: str):
    register(machine, "m1")
    with pytest.raises(AirsmithError, match=said) as refused:
        change(machine, "deploy", **fields)
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert not list(machine.store.list("runs/endpoint"))


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("shift_traffic", {"endpoint": "tiny", "percent": 10}),
        ("roll_back", {"endpoint": "tiny"}),
        ("scale", {"endpoint": "tiny", "replicas": 2}),
        ("deploy", {"model": "tiny", "version": 1, "percent": 10}),
    ],
)
def test_one_machine_shares_and_scales_nothing(machine: Machine, action: str, fields: dict[str, Any]):
    with pytest.raises(AirsmithError, match="takes a cluster") as refused:
        change(machine, action, **fields)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
