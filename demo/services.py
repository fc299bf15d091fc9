"""The demo's servers: the local Hub and Airflow. They keep running after the command; `make stop` stops them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import BaseModel

from airsmith.process.detached import is_alive, start_detached, stop_group
from airsmith.registry import ServerProcess
from demo.airflow_api import is_healthy, wait_until

AIRFLOW_START_SECONDS = 180
HUB_START_SECONDS = 30


@dataclass(frozen=True)
class DemoPaths:
    """Paths of the demo; all state is in one folder that may be deleted.

    :param checkout: the repository's root.
    """

    checkout: Path

    @property
    def state(self) -> Path:
        """Airflow's home, the store, the Hub's repositories and the servers' logs."""
        return self.checkout / ".airsmith"

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME of the demo."""
        return self.state / "airflow"

    @property
    def hub_root(self) -> Path:
        """The folder that the local Hub serves."""
        return self.state / "hub"

    @property
    def store(self) -> str:
        """URI of the demo's store."""
        return f"file://{self.state / 'store'}"

    @property
    def stages_python(self) -> Path:
        """Python interpreter of the stages' virtual environment."""
        return self.checkout / ".venvs" / "stages" / "bin" / "python"

    @property
    def airflow_bin(self) -> Path:
        """Programs of Airflow's virtual environment, which this process runs in."""
        return Path(sys.executable).parent


class Servers(BaseModel):
    """`servers.json`: the demo's running servers, for later commands.

    :ivar hub: the local Hub; None if the recipe uses the real one.
    """

    hub: ServerProcess | None
    airflow_address: str
    airflow: ServerProcess

    @property
    def running(self) -> bool:
        """Whether all servers run and Airflow is healthy."""
        hub_is_running = self.hub is None or is_alive(self.hub)
        return hub_is_running and is_alive(self.airflow) and is_healthy(self.airflow_address)


def ensure_servers(paths: DemoPaths, *, local_hub: bool) -> Servers:
    """Start Airflow and, if requested, the local Hub, unless they are running.

    :param local_hub: whether Airflow's tasks pull from the local Hub instead of the real one.
    """
    servers = read_servers(paths)
    if servers is not None and (servers.hub is not None) == local_hub and servers.running:
        return servers
    stop_servers(paths)
    hub_address, hub = _start_hub(paths) if local_hub else (None, None)
    airflow_address, airflow = _start_airflow(paths, hub_address)
    servers = Servers(hub=hub, airflow_address=airflow_address, airflow=airflow)
    _servers_file(paths).write_text(servers.model_dump_json(indent=2))
    _wait_for_airflow(paths, servers)
    return servers


def read_servers(paths: DemoPaths) -> Servers | None:
    """The servers that the last command started, whether or not they still run."""
    path = _servers_file(paths)
    return Servers.model_validate_json(path.read_text()) if path.exists() else None


def stop_servers(paths: DemoPaths) -> list[str]:
    """Stop the running servers.

    :returns: the names of the stopped servers.
    """
    servers = read_servers(paths)
    if servers is None:
        return []
    stopped = []
    # `airflow standalone` stops its four child processes on SIGINT, but not on SIGTERM.
    for name, process, stop_signal in (
        ("Airflow", servers.airflow, signal.SIGINT),
        ("the local Hub", servers.hub, signal.SIGTERM),
    ):
        if process is not None and is_alive(process):
            stopped.append(name)
            stop_group(process, first_signal=stop_signal, grace_seconds=30)
    _servers_file(paths).unlink()
    return stopped


def _servers_file(paths: DemoPaths) -> Path:
    return paths.state / "servers.json"


def _start_hub(paths: DemoPaths) -> tuple[str, ServerProcess]:
    address = f"http://127.0.0.1:{_free_port(8090)}"
    port = address.rsplit(":", 1)[1]
    command = [str(paths.stages_python), "-m", "demo.hub", "--root", str(paths.hub_root), "--port", port]
    process = start_detached(command, log=paths.state / "hub.log", cwd=paths.checkout)

    def responds() -> bool:
        try:
            return httpx.get(f"{address}/api/whoami-v2", timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    if not wait_until(lambda: responds() or not is_alive(process), HUB_START_SECONDS) or not is_alive(process):
        raise RuntimeError(f"The local Hub did not start; see {paths.state / 'hub.log'}")
    return address, process


def _start_airflow(paths: DemoPaths, hub_address: str | None) -> tuple[str, ServerProcess]:
    paths.airflow_home.mkdir(parents=True, exist_ok=True)
    port = _free_port(8080)
    command = [str(paths.airflow_bin / "airflow"), "standalone"]
    environment = {**os.environ, **_airflow_environment(paths, port), **_airsmith_environment(paths, hub_address)}
    process = start_detached(command, log=paths.state / "airflow.log", cwd=paths.checkout, environment=environment)
    return f"http://127.0.0.1:{port}", process


def _airflow_environment(paths: DemoPaths, port: int) -> dict[str, str]:
    return {
        "PATH": f"{paths.airflow_bin}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(paths.airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(paths.checkout / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        # With the default idle sleep of 1 s, most of the duration of a fully cached run is waiting between tasks.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    }


def _airsmith_environment(paths: DemoPaths, hub_address: str | None) -> dict[str, str]:
    hub = {"AIRSMITH_HUB_ENDPOINT": hub_address} if hub_address else {}
    return {
        **hub,
        "AIRSMITH_STORE": paths.store,
        "AIRSMITH_LOCAL__STAGES_PYTHON": str(paths.stages_python),
        "AIRSMITH_LOCAL__STATE_DIR": str(paths.state),
    }


def _wait_for_airflow(paths: DemoPaths, servers: Servers) -> None:
    wait_until(lambda: is_healthy(servers.airflow_address) or not is_alive(servers.airflow), AIRFLOW_START_SECONDS, 0.5)
    if not is_healthy(servers.airflow_address):
        stop_servers(paths)
        raise RuntimeError(f"Airflow did not start; see {paths.state / 'airflow.log'}")


def _free_port(preferred: int) -> int:
    """The preferred port if it is free, otherwise one that the operating system picks."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("127.0.0.1 has no free port.")
