"""A change of an existing endpoint: validated, made, and then smoke-tested by a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

from airsmith.artifacts.store import Store
from airsmith.contracts.digests import canonical_digest
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.run_again import run_again, run_of_version
from airsmith.recipe.operation import KUBERNETES_NAME
from airsmith.recipe.validate import validate
from airsmith.registry import Endpoint
from airsmith.settings import Settings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

log = logging.getLogger("airsmith")

Action = Literal["deploy", "shift_traffic", "roll_back", "scale", "stop"]


class EndpointChange(BaseModel):
    """One change of one endpoint: the fields of the trigger form."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    action: Action = Field("deploy", description="What to do.")
    endpoint: Optional[str] = Field(
        None,
        pattern=KUBERNETES_NAME,
        description="Name of the endpoint. For deploy, the recipe's endpoint if empty.",
    )
    model: Optional[str] = Field(
        None, description="Deploy: name of the registered model, `models/<name>` in the store."
    )
    version: Optional[int] = Field(None, ge=1, description="Deploy: version of the model; the champion if empty.")
    percent: Optional[int] = Field(
        None,
        ge=0,
        le=100,
        description="Deploy: share of the requests, 100 if empty; with less, the version becomes a canary next to the "
        "current one. Shift traffic: new share of the canary; 0 withdraws it, 100 promotes it.",
    )
    replicas: Optional[int] = Field(
        None,
        ge=1,
        le=1000,
        description="Scale: number of replicas. Deploy or shift traffic below 100 percent without a Gateway: total "
        "replicas of both versions, whose ratio is the share.",
    )


_NEEDED: Mapping[Action, tuple[str, ...]] = {
    "deploy": ("model",),
    "shift_traffic": ("endpoint", "percent"),
    "roll_back": ("endpoint",),
    "scale": ("endpoint", "replicas"),
    "stop": ("endpoint",),
}
_ALLOWED: Mapping[Action, tuple[str, ...]] = {
    "deploy": ("endpoint", "version", "percent", "replicas"),
    "shift_traffic": ("replicas",),
}
"""Optional fields of an action."""


@dataclass(frozen=True)
class ChangeRequest:
    """A change and the run of the DAG that makes it."""

    change: EndpointChange
    dag_id: str
    run_id: str


def checked_change(values: Mapping[str, Any]) -> EndpointChange:
    """The change that a form describes; empty text counts as no value.

    :raises AirsmithError: `bad_recipe`, naming the fields that the action requires or does not accept.
    """
    given = {name: value for name, value in values.items() if value not in (None, "")}
    change = validate(EndpointChange, given, lambda _: "endpoint", what="field")
    action = change.action
    missing = [name for name in _NEEDED[action] if name not in given]
    if missing:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The action {action} requires {' and '.join(missing)}.",
            f"Fill in {', '.join(_NEEDED[action])}.",
        )
    allowed = {"action", *_NEEDED[action], *_ALLOWED.get(action, ())}
    unused = [name for name in given if name not in allowed]
    if unused:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The action {action} does not accept {' and '.join(unused)}.",
            "Leave it empty, or choose another action.",
        )
    _check_share(change)
    return change


def _check_share(change: EndpointChange) -> None:
    if change.action == "deploy" and change.percent == 0:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "A version cannot be deployed with 0 percent of the requests.",
            "Set percent to 1 to 100.",
        )
    if change.action != "scale" and change.replicas is not None and change.percent in (None, 0, 100):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"With the action {change.action}, replicas applies only to a canary, but percent is not between 1 and 99.",
            "Set percent to 1 to 99, or use the action scale to change the number of replicas.",
        )


def make_change(request: ChangeRequest, settings: Settings, client: ApiClient | None) -> Run | None:
    """Make the requested change.

    :param client: client of the cluster; None with the local runtime.
    :returns: the run whose smoke test verifies what is served; None if there is nothing to test.
    :raises AirsmithError: if the change fails; the endpoint then serves as before.
    """
    if client is None:
        return _change_here(request, settings)
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.serving.cluster.traffic import TrafficShare

    store, change = Store.open(settings.store), request.change
    name = change.endpoint or ""
    if change.action == "deploy":
        run = _deployed_run(store, request, settings)
        kubernetes.deploy(run, settings, client, TrafficShare(change.percent or 100, change.replicas))
        return run
    if change.action == "shift_traffic":
        share = TrafficShare(change.percent or 0, change.replicas)
        endpoint = kubernetes.shift_traffic(store, name, share, settings, client)
        return _run_of_takeover(endpoint, request, store, settings) if change.percent == 100 else None
    if change.action == "roll_back":
        kubernetes.roll_back(store, name, settings, client)
    elif change.action == "scale":
        kubernetes.scale(store, name, change.replicas or 1, client)
    elif not kubernetes.stop(store, name, client):
        log.info("Endpoint %s was not running.", name)
    return None


def _change_here(request: ChangeRequest, settings: Settings) -> Run | None:
    """Make a change with the local runtime, where an endpoint is one process.

    :raises AirsmithError: `bad_recipe` if the change requires a cluster.
    """
    from airsmith.serving.local.endpoint import deploy, stop_endpoint

    store, change = Store.open(settings.store), request.change
    if change.action == "deploy" and change.percent in (None, 100):
        run = _deployed_run(store, request, settings)
        deploy(run, settings)
        return run
    if change.action != "stop":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The action {change.action}{' with a share' if change.percent else ''} requires a cluster: "
            "with the local runtime an endpoint is one process.",
            "Deploy the version to serve, or stop the endpoint.",
        )
    if not stop_endpoint(store, change.endpoint or ""):
        log.info("Endpoint %s was not running.", change.endpoint)
    return None


def _deployed_run(store: Store, request: ChangeRequest, settings: Settings) -> Run:
    """A run that deploys the requested version."""
    change = request.change
    made_by = run_of_version(store, change.model or "", change.version)
    return run_again(made_by, request.dag_id, request.run_id, settings, change.endpoint)


def _run_of_takeover(endpoint: Endpoint, request: ChangeRequest, store: Store, settings: Settings) -> Run | None:
    """A run that smoke-tests a promoted canary."""
    from airsmith.serving.cluster.endpoint import endpoint_output

    if endpoint.current.run is None:
        log.warning("Endpoint %s is not tested: its record does not name the run that deployed it.", endpoint.name)
        return None
    run = run_again(Run(store, endpoint.current.run), request.dag_id, request.run_id, settings, endpoint.name)
    taken_over = canonical_digest({"revision": endpoint.current.id, "run": run.path})
    output = endpoint_output(endpoint, endpoint.current.id, taken_over)
    StageRecord.start("deploy", run).finish(output, cached=False)
    return run
