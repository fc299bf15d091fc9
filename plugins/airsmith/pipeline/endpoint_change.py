"""What a person may ask of an endpoint that is there: checked in words, then done, and proved by a run of its own."""

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
    """One change of one endpoint, as the trigger form has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    action: Action = Field("deploy", description="What to do.")
    endpoint: Optional[str] = Field(
        None,
        pattern=KUBERNETES_NAME,
        description="Name of the endpoint. To deploy, it may stay empty: the recipe that made the version names one.",
    )
    model: Optional[str] = Field(
        None, description="Deploy: name of the registered model, `models/<name>` in the store."
    )
    version: Optional[int] = Field(None, ge=1, description="Deploy: its version; the champion when empty.")
    percent: Optional[int] = Field(
        None,
        ge=0,
        le=100,
        description="Deploy: share of the requests, 100 when empty; below it what is served goes on beside the new "
        "version. Shift traffic: the new share of the version beside the other; 0 withdraws it, 100 lets it take over.",
    )
    replicas: Optional[int] = Field(
        None,
        ge=1,
        le=1000,
        description="Scale: servers of the endpoint. Deploy or shift traffic to a share below 100 without a Gateway: "
        "servers of both versions together, whose number makes the share.",
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
"""Beside what is needed."""


@dataclass(frozen=True)
class ChangeRequest:
    """A change and the run of the DAG that makes it."""

    change: EndpointChange
    dag_id: str
    run_id: str


def checked_change(values: Mapping[str, Any]) -> EndpointChange:
    """A change from what somebody filled in; empty text is nothing.

    :raises AirsmithError: `bad_recipe`, saying which fields the action needs and which mean nothing to it.
    """
    given = {name: value for name, value in values.items() if value not in (None, "")}
    change = validate(EndpointChange, given, lambda _: "endpoint", what="field")
    action = change.action
    missing = [name for name in _NEEDED[action] if name not in given]
    if missing:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The action {action} needs {' and '.join(missing)}.",
            f"Fill in {', '.join(_NEEDED[action])}.",
        )
    allowed = {"action", *_NEEDED[action], *_ALLOWED.get(action, ())}
    needless = [name for name in given if name not in allowed]
    if needless:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The action {action} does nothing with {' and '.join(needless)}.",
            "Leave it empty, or choose another action.",
        )
    _check_share(change)
    return change


def _check_share(change: EndpointChange) -> None:
    if change.action == "deploy" and change.percent == 0:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, "A version without requests is not deployed.", "Give percent from 1 to 100."
        )
    if change.action != "scale" and change.replicas is not None and change.percent in (None, 0, 100):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"With the action {change.action}, replicas makes a share, but percent asks for none.",
            "Give percent from 1 to 99, or change the number of servers by the action scale.",
        )


def make_change(request: ChangeRequest, settings: Settings, client: ApiClient | None) -> Run | None:
    """Do what was asked for.

    :param client: of the cluster; None where stages are processes of this machine.
    :returns: the run that proves by its smoke test what has come to be served; None where there is nothing to prove.
    :raises AirsmithError: where it cannot be done; the endpoint then answers as before.
    """
    if client is None:
        return _change_here(request, settings)
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.serving.cluster.traffic import Share

    store, change = Store.open(settings.store), request.change
    name = change.endpoint or ""
    if change.action == "deploy":
        run = _deployed_run(store, request, settings)
        kubernetes.deploy(run, settings, client, Share(change.percent or 100, change.replicas))
        return run
    if change.action == "shift_traffic":
        endpoint = kubernetes.shift_traffic(store, name, Share(change.percent or 0, change.replicas), settings, client)
        return _run_of_takeover(endpoint, request, store, settings) if change.percent == 100 else None
    if change.action == "roll_back":
        kubernetes.roll_back(store, name, settings, client)
    elif change.action == "scale":
        kubernetes.scale(store, name, change.replicas or 1, client)
    elif not kubernetes.stop(store, name, client):
        log.info("Endpoint %s was not running.", name)
    return None


def _change_here(request: ChangeRequest, settings: Settings) -> Run | None:
    """Do what one machine can: it has one server for an endpoint.

    :raises AirsmithError: `bad_recipe` where it takes a cluster.
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
            f"The action {change.action}{' with a share' if change.percent else ''} takes a cluster: "
            "on one machine an endpoint is one process.",
            "Deploy the version that it should serve, or stop it.",
        )
    if not stop_endpoint(store, change.endpoint or ""):
        log.info("Endpoint %s was not running.", change.endpoint)
    return None


def _deployed_run(store: Store, request: ChangeRequest, settings: Settings) -> Run:
    """The run that deploys the version that was asked for."""
    change = request.change
    made_by = run_of_version(store, change.model or "", change.version)
    return run_again(made_by, request.dag_id, request.run_id, settings, change.endpoint)


def _run_of_takeover(endpoint: Endpoint, request: ChangeRequest, store: Store, settings: Settings) -> Run | None:
    """The run that proves what has come to serve alone: what a run deployed has others' requests now."""
    from airsmith.serving.cluster.endpoint import endpoint_output

    if endpoint.run is None:
        log.warning("Endpoint %s is not proved: it does not say which run deployed what it serves.", endpoint.name)
        return None
    run = run_again(Run(store, endpoint.run), request.dag_id, request.run_id, settings, endpoint.name)
    taken_over = canonical_digest({"deployment": endpoint.deployment, "run": run.path})
    output = endpoint_output(endpoint, endpoint.deployment, taken_over)
    StageRecord.begin("deploy", run).finish(output, cached=False)
    return run
