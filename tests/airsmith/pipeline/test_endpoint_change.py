"""Requests to change an endpoint: which are valid, and what they do on this machine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airsmith.contracts.cache import Output
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.endpoint_change import ChangeRequest, checked_change, make_change
from airsmith.registry import promote, read_endpoint, register_version
from tests.support.local_endpoints import LocalHost
from tests.support.registry import version_draft
from tests.support.runs import finish_stage_with


def register(local_host: LocalHost, model: str, **recipe: Any) -> Run:
    """A run whose model is a version of the registry."""
    run = local_host.new_run(model, **recipe)
    finish_stage_with(run, "evaluate", Output("evaluation", model, "artifacts/evaluation/e", True))
    register_version(local_host.store, "tiny", version_draft(model, model=f"artifacts/model/{model}", run=run.path))
    return run


def change(local_host: LocalHost, action: str, run_id: str = "manual", **fields: Any) -> Run | None:
    request = ChangeRequest(checked_change({"action": action, **fields}), dag_id="endpoint", run_id=run_id)
    return make_change(request, local_host.settings(), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action": "deploy"}, "The action deploy requires model."),
        ({"action": "deploy", "model": ""}, "The action deploy requires model."),
        ({"action": "shift_traffic"}, "The action shift_traffic requires endpoint and percent."),
        ({"action": "scale", "endpoint": "a"}, "The action scale requires replicas."),
        ({"action": "stop", "endpoint": "a", "percent": 0}, "The action stop does not accept percent."),
        ({"action": "roll_back", "endpoint": "a", "model": "m"}, "The action roll_back does not accept model."),
        ({"action": "scale", "endpoint": "a", "replicas": 2, "version": 1}, "does not accept version"),
        (
            {"action": "deploy", "model": "m", "percent": 0},
            "A version cannot be deployed with 0 percent of the requests.",
        ),
        (
            {"action": "deploy", "model": "m", "replicas": 3},
            "replicas applies only to a canary, but percent is not between 1 and 99",
        ),
        (
            {"action": "shift_traffic", "endpoint": "a", "percent": 100, "replicas": 3},
            "percent is not between 1 and 99",
        ),
        ({"action": "explode"}, "action"),
        ({"action": "deploy", "model": "m", "percent": 101}, "percent"),
        ({"action": "scale", "endpoint": "Not A Name", "replicas": 1}, "endpoint is 'Not A Name', but must match"),
        ({"action": "scale", "endpoint": "a", "replica": 1}, "replica is not a field; did you mean replicas?"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(values: dict[str, Any], message: str):
    with pytest.raises(AirsmithError) as refused:
        checked_change(values)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert message in refused.value.message


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
def test_a_valid_request_is_accepted(values: dict[str, Any]):
    assert checked_change(values).action == values["action"]


def test_a_version_is_deployed_with_the_outputs_of_its_run(local_host: LocalHost):
    source = register(local_host, "m1")
    register(local_host, "m2")
    run = change(local_host, "deploy", model="tiny", version=1)
    assert run is not None
    endpoint = read_endpoint(local_host.store, "tiny")
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


def test_the_champion_is_deployed_by_default(local_host: LocalHost):
    for model in ("m1", "m2"):
        register(local_host, model)
    promote(local_host.store, "tiny", 2, "better")
    change(local_host, "deploy", model="tiny")
    endpoint = read_endpoint(local_host.store, "tiny")
    assert endpoint is not None
    assert endpoint.current.version == 2


def test_a_version_can_be_deployed_to_another_endpoint(local_host: LocalHost):
    register(local_host, "m1", serve={"enabled": False})
    run = change(local_host, "deploy", model="tiny", version=1, endpoint="staging")
    assert read_endpoint(local_host.store, "tiny") is None
    assert run is not None
    assert run.read_spec().recipe.endpoint_name == "staging"
    assert change(local_host, "stop", endpoint="staging") is None
    staging = read_endpoint(local_host.store, "staging")
    assert staging is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{staging.current.address}/health")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"model": "tiny", "version": 7}, "no version 7"), ({"model": "missing"}, "has no model missing")],
)
def test_an_unregistered_model_or_version_is_refused(local_host: LocalHost, fields: dict[str, Any], message: str):
    register(local_host, "m1")
    with pytest.raises(AirsmithError, match=message) as refused:
        change(local_host, "deploy", **fields)
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert not list(local_host.store.list("runs/endpoint"))


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("shift_traffic", {"endpoint": "tiny", "percent": 10}),
        ("roll_back", {"endpoint": "tiny"}),
        ("scale", {"endpoint": "tiny", "replicas": 2}),
        ("deploy", {"model": "tiny", "version": 1, "percent": 10}),
    ],
)
def test_actions_that_need_a_cluster_are_refused_locally(local_host: LocalHost, action: str, fields: dict[str, Any]):
    with pytest.raises(AirsmithError, match="requires a cluster") as refused:
        change(local_host, action, **fields)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
