"""Deploy to this machine: a server's process that outlives Airflow's worker, swapped in once it is healthy."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import uuid
from pathlib import Path

import httpx

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.detached import is_alive, start_detached, stop_group
from airsmith.registry import Deployment, Endpoint, ServerProcess, list_endpoints, read_endpoint, swap_endpoint
from airsmith.serving.chat import curl_line
from airsmith.serving.engines import Engine, ServeOptions, choose_engine
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

START_SECONDS = 600.0
"""Longest wait for a server to load its model."""
STOP_GRACE_SECONDS = 20.0
POLL_SECONDS = 0.25
_LOG_TAIL_LINES = 15


def deploy(run: Run, settings: Settings) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; what serves it already goes on.

    A new server is started beside the old one, which ends only once the new one is healthy and recorded; where the
    settings name the port, it has to make room first.

    :raises AirsmithError: where the server does not come up; the endpoint's record then stays as it was.
    """
    with recorded_stage("deploy", run) as record:
        spec = run.read_spec()
        python = settings.stages_python()
        engine = choose_engine(spec.recipe.serve, python)
        model = served_model(run)
        current = read_endpoint(run.store, spec.recipe.endpoint_name)
        if current is not None and _serves(current, model, engine):
            log.info("Endpoint %s serves this model already, at %s", current.name, current.address)
            return record.finish(_output(current), cached=True)
        endpoint = _replace(run, spec, settings, engine, model, current)
        log.info("Endpoint %s is up. Try it:\n%s", endpoint.name, curl_line(endpoint))
        return record.finish(_output(endpoint), cached=False)


def stop_endpoint(store: Store, name: str) -> bool:
    """End an endpoint's server.

    :returns: whether one was running.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None or endpoint.process is None or not is_alive(endpoint.process):
        return False
    _stop(endpoint)
    return True


def stop_all(settings: Settings) -> list[str]:
    """End every endpoint of the store that runs on this machine.

    :returns: their names.
    """
    store = Store.open(settings.store)
    return [endpoint.name for endpoint in list_endpoints(store) if stop_endpoint(store, endpoint.name)]


def is_healthy(deployment: Deployment) -> bool:
    """Whether a server answers that it is well."""
    try:
        return httpx.get(f"{deployment.address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def served_model(run: Run) -> Artifact:
    """The model that a run's endpoint serves.

    :raises AirsmithError: `not_found` where the run has not merged yet.
    """
    pointer = run.pointer("merge")
    artifact = open_artifact(run.store, pointer.location) if pointer is not None else None
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, "Stage deploy needs the output of merge, which this run does not have."
        )
    return artifact


def _serves(endpoint: Endpoint, model: Artifact, engine: Engine) -> bool:
    same = endpoint.model_uri == model.folder and endpoint.engine == engine.name
    return same and endpoint.process is not None and is_alive(endpoint.process) and is_healthy(endpoint)


def _replace(
    run: Run, spec: RunSpec, settings: Settings, engine: Engine, model: Artifact, current: Endpoint | None
) -> Endpoint:
    name = spec.recipe.endpoint_name
    version = run.pointer("register")
    options = ServeOptions(
        model_name=name,
        host=settings.local.serve_host,
        port=_port(settings, current),
        trust_remote_code=spec.recipe.model.trust_remote_code,
        engine_args=spec.recipe.serve.engine_args,
    )
    process = _start(options, engine, model, settings)
    deployment = Deployment(
        engine=engine.name,
        address=_address(options.host, options.port),
        model_name=name,
        version=int(version.properties["version"]) if version is not None else None,
        model_uri=model.folder,
        deployment=str(uuid.uuid4()),
        process=process,
    )
    try:
        _wait_until_healthy(deployment, process)
        endpoint = swap_endpoint(run.store, name, deployment)
    except BaseException:
        stop_group(process, grace_seconds=STOP_GRACE_SECONDS)
        raise
    if current is not None:
        _stop(current)
    return endpoint


def _port(settings: Settings, current: Endpoint | None) -> int:
    """The port of the settings, once nothing listens there, or any that is free."""
    host, port = settings.local.serve_host, settings.local.serve_port
    if port and current is not None and current.address == _address(host, port):
        _stop(current)
    with socket.socket() as probe:
        # Connections that have just ended leave the port free to listen on, as the servers themselves see it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"Nothing can be served at {host}:{port}: {error.strerror}.",
                "End what listens there, or set local.serve_port to 0 for a free one.",
            ) from error
        return int(probe.getsockname()[1])


def _stop(deployment: Deployment) -> None:
    if deployment.process is not None:
        stop_group(deployment.process, grace_seconds=STOP_GRACE_SECONDS)


def _address(host: str, port: int) -> str:
    return f"http://{host}:{port}"


def _start(options: ServeOptions, engine: Engine, model: Artifact, settings: Settings) -> ServerProcess:
    """Start a server in a folder of its own, where the model lies under the name that requests use."""
    state = settings.local.state_dir.absolute()
    folder = state / "endpoints" / f"{options.model_name}-{uuid.uuid4().hex[:8]}"
    _link(_local_copy(model, state), folder / options.model_name)
    (folder / "hub").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW", "HF_"))},
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder),
        # OpenMP's threads spin while they wait: beside a busy neighbour an answer would take ten times as long.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
    }
    command = [str(settings.stages_python()), "-m", *engine.arguments(options)]
    return start_detached(command, log=folder / "server.log", cwd=folder, environment=environment)


def _local_copy(model: Artifact, state: Path) -> Path:
    """The model's files on this machine, verified once and kept for the next deployment."""
    folder = state / "models" / model.digest
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        model.download(partial)
        try:
            partial.rename(folder)
        except OSError:  # Another deployment of the same model was faster.
            shutil.rmtree(partial)
    return folder


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True)
    link.symlink_to(target)


def _wait_until_healthy(deployment: Deployment, process: ServerProcess) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(deployment):
        if not is_alive(process):
            raise _failed(deployment, "ended while it started", process)
        if time.monotonic() > deadline:
            raise _failed(deployment, f"was not healthy after {START_SECONDS:.0f} s", process)
        time.sleep(POLL_SECONDS)


def _failed(deployment: Deployment, what: str, process: ServerProcess) -> AirsmithError:
    tail = Path(process.log).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    log.error("The last lines of %s:\n%s", process.log, "\n".join(tail))
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"The {deployment.engine} server for {deployment.model_name} {what}.",
        f"See {process.log}.",
    )


def _output(endpoint: Endpoint) -> Output:
    properties = {"endpoint": endpoint.name, "address": endpoint.address, "model_name": endpoint.model_name}
    return Output(ArtifactType.ENDPOINT, endpoint.deployment, endpoint_path(endpoint.name), True, properties)
