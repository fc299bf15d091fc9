"""A model server as a process of this machine: start, health check, stop."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import uuid
from pathlib import Path

import httpx

from airsmith.artifacts.read import Artifact
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.detached import is_alive, start_detached, stop_group
from airsmith.registry import Revision, ServerProcess
from airsmith.serving.engines import Engine, LocalOptions
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

START_TIMEOUT_SECONDS = 600.0
STOP_GRACE_SECONDS = 20.0
POLL_SECONDS = 0.25
_LOG_TAIL_LINES = 15


def start_server(options: LocalOptions, engine: Engine, model: Artifact, settings: Settings) -> ServerProcess:
    """Start a server in a new working directory that contains the model under the name that requests use."""
    assert engine.local_arguments is not None, f"{engine.name} runs in clusters only"
    state = settings.local.state_dir.absolute()
    folder = state / "endpoints" / f"{options.model_name}-{uuid.uuid4().hex[:8]}"
    _link(_local_copy(model, state), folder / options.model_name)
    (folder / "hub").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW", "HF_"))},
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder),
        # OpenMP threads spin while they wait: on a busy machine, an answer would take ten times as long.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
    }
    command = [str(settings.stages_python()), "-m", *engine.local_arguments(options)]
    return start_detached(command, log=folder / "server.log", cwd=folder, environment=environment)


def stop_server(process: ServerProcess) -> None:
    """Terminate a server's process group; kill it after the grace period."""
    stop_group(process, grace_seconds=STOP_GRACE_SECONDS)


def server_url(host: str, port: int) -> str:
    """Base URL of a server."""
    return f"http://{host}:{port}"


def listen_port(settings: Settings, current: Revision | None) -> int:
    """The port of the settings, or a free one if they set none; stops the current server if it uses that port.

    :raises AirsmithError: `bad_recipe` if another process uses the port.
    """
    host, port = settings.local.serve_host, settings.local.serve_port
    if port and current is not None and current.process is not None and current.address == server_url(host, port):
        stop_server(current.process)
    with socket.socket() as probe:
        # Closed connections leave the port in TIME_WAIT; servers set this option too and can listen on it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"The server cannot listen on {host}:{port}: {error.strerror}.",
                "Stop the process that uses the port, or set local.serve_port to 0 to use a free port.",
            ) from error
        return int(probe.getsockname()[1])


def is_healthy(revision: Revision) -> bool:
    """Whether the server's health check succeeds."""
    try:
        return httpx.get(f"{revision.address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_healthy(revision: Revision, process: ServerProcess) -> None:
    """Wait until the server's health check succeeds.

    :raises AirsmithError: `internal` if the process exits or the timeout expires.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_healthy(revision):
        if not is_alive(process):
            raise _start_error(revision, "exited during startup", process)
        if time.monotonic() > deadline:
            raise _start_error(revision, f"was not healthy after {START_TIMEOUT_SECONDS:.0f} s", process)
        time.sleep(POLL_SECONDS)


def _start_error(revision: Revision, what: str, process: ServerProcess) -> AirsmithError:
    tail = Path(process.log).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    log.error("Last lines of %s:\n%s", process.log, "\n".join(tail))
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"The {revision.engine} server for {revision.model_name} {what}.",
        f"See {process.log}.",
    )


def _local_copy(model: Artifact, state: Path) -> Path:
    """The model's files on this machine; downloaded and verified once, then reused."""
    folder = state / "models" / model.digest
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        model.download(partial)
        try:
            partial.rename(folder)
        except OSError:  # A concurrent deploy of the same model has created the folder.
            shutil.rmtree(partial)
    return folder


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
