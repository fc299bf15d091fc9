"""Endpoints on this machine: a server process that outlives Airflow's worker and becomes current once it is healthy."""

from __future__ import annotations

import logging
import uuid

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.detached import is_alive
from airsmith.registry import Endpoint, Revision, list_endpoints, read_endpoint, record_current
from airsmith.serving.chat import curl_command
from airsmith.serving.engines import Engine, LocalOptions, choose_local_engine
from airsmith.serving.local.server import (
    is_healthy,
    listen_port,
    server_url,
    start_server,
    stop_server,
    wait_until_healthy,
)
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def deploy(run: Run, settings: Settings) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; a healthy server of the same model is reused.

    The current server stops after the new one is healthy and recorded. If the settings fix the port, it stops before
    the new one starts.

    :raises AirsmithError: if the new server does not become healthy; the endpoint's record then stays unchanged.
    """
    with recorded_stage("deploy", run) as record:
        recipe = run.read_spec().recipe
        engine = choose_local_engine(recipe.serve, settings.stages_python())
        model = merged_model(run)
        endpoint = read_endpoint(run.store, recipe.endpoint_name)
        if endpoint is not None and _serves(endpoint.current, model, engine):
            log.info("Endpoint %s already serves this model at %s", endpoint.name, endpoint.current.address)
            return record.finish(_output(endpoint), cached=True)
        endpoint = _replace(run, settings, engine, model, endpoint.current if endpoint is not None else None)
        log.info("Endpoint %s is ready. Try it:\n%s", endpoint.name, curl_command(endpoint))
        return record.finish(_output(endpoint), cached=False)


def stop_endpoint(store: Store, name: str) -> bool:
    """Stop an endpoint's server on this machine.

    :returns: whether it was running.
    """
    endpoint = read_endpoint(store, name)
    process = endpoint.current.process if endpoint is not None else None
    if process is None or not is_alive(process):
        return False
    stop_server(process)
    return True


def stop_all(settings: Settings) -> list[str]:
    """Stop the servers on this machine of all endpoints in the store.

    :returns: the names of the stopped endpoints.
    """
    store = Store.open(settings.store)
    return [endpoint.name for endpoint in list_endpoints(store) if stop_endpoint(store, endpoint.name)]


def merged_model(run: Run) -> Artifact:
    """The output of a run's merge stage.

    :raises AirsmithError: `not_found` if the run has no such output.
    """
    pointer = run.pointer("merge")
    artifact = open_artifact(run.store, pointer.location) if pointer is not None else None
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, "Stage deploy needs the output of merge, which this run does not have.", "Run merge."
        )
    return artifact


def _serves(current: Revision, model: Artifact, engine: Engine) -> bool:
    same = current.model_uri == model.folder and current.engine == engine.name
    return same and current.process is not None and is_alive(current.process) and is_healthy(current)


def _replace(run: Run, settings: Settings, engine: Engine, model: Artifact, current: Revision | None) -> Endpoint:
    """Start a server, make it current when it is healthy, and stop the one that was current."""
    recipe = run.read_spec().recipe
    name = recipe.endpoint_name
    registered = run.pointer("register")
    options = LocalOptions(
        model_name=name,
        host=settings.local.serve_host,
        port=listen_port(settings, current),
        trust_remote_code=recipe.model.trust_remote_code,
        engine_args=recipe.serve.engine_args,
    )
    process = start_server(options, engine, model, settings)
    revision = Revision(
        id=str(uuid.uuid4()),
        engine=engine.name,
        address=server_url(options.host, options.port),
        model_name=name,
        version=int(registered.properties["version"]) if registered is not None else None,
        model_uri=model.folder,
        process=process,
    )
    try:
        wait_until_healthy(revision, process)
        endpoint = record_current(run.store, name, revision)
    except BaseException:
        stop_server(process)
        raise
    if current is not None and current.process is not None:
        stop_server(current.process)
    return endpoint


def _output(endpoint: Endpoint) -> Output:
    current = endpoint.current
    properties = {"endpoint": endpoint.name, "address": current.address, "model_name": current.model_name}
    return Output(ArtifactType.ENDPOINT, current.id, endpoint_path(endpoint.name), True, properties)
