"""The servers behind the demo: the local Hub and Airflow. They outlive the command; `make stop` ends them."""

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
class DemoHouse:
    """Where the demo keeps everything: all of it in one folder that may be deleted.

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
        """Repositories that the local Hub serves."""
        return self.state / "hub"

    @property
    def store(self) -> str:
        """URI of the demo's store."""
        return f"file://{self.state / 'store'}"

    @property
    def stages_python(self) -> Path:
        """Interpreter of the stages' virtual environment."""
        return self.checkout / ".venvs" / "stages" / "bin" / "python"

    @property
    def airflow_bin(self) -> Path:
        """Programs of Airflow's virtual environment: this interpreter's folder."""
        return Path(sys.executable).parent


class Servers(BaseModel):
    """`servers.json`: what runs for the demo, so that a later command finds it.

    :ivar hub: the local Hub, or None where the recipe needs the real one.
    """

    hub: ServerProcess | None
    airflow_address: str
    airflow: ServerProcess

    @property
    def running(self) -> bool:
        """Whether all of them are there and well."""
        hub_is_well = self.hub is None or is_alive(self.hub)
        return hub_is_well and is_alive(self.airflow) and is_healthy(self.airflow_address)


def ensure_servers(house: DemoHouse, *, local_hub: bool) -> Servers:
    """Start Airflow, and the local Hub where it is wanted, unless they still run.

    :param local_hub: whether Airflow's tasks pull from the local Hub or from the real one.
    """
    servers = read_servers(house)
    if servers is not None and (servers.hub is not None) == local_hub and servers.running:
        return servers
    stop_servers(house)
    hub_address, hub = _start_hub(house) if local_hub else (None, None)
    airflow_address, airflow = _start_airflow(house, hub_address)
    servers = Servers(hub=hub, airflow_address=airflow_address, airflow=airflow)
    _servers_file(house).write_text(servers.model_dump_json(indent=2))
    _wait_for_airflow(house, servers)
    return servers


def read_servers(house: DemoHouse) -> Servers | None:
    """The servers that the last command started, running or not."""
    path = _servers_file(house)
    return Servers.model_validate_json(path.read_text()) if path.exists() else None


def stop_servers(house: DemoHouse) -> list[str]:
    """Stop what runs.

    :returns: the names of the servers that were running.
    """
    servers = read_servers(house)
    if servers is None:
        return []
    stopped = []
    # `airflow standalone` ends its four processes on SIGINT, not on SIGTERM.
    for name, process, end in (
        ("Airflow", servers.airflow, signal.SIGINT),
        ("the local Hub", servers.hub, signal.SIGTERM),
    ):
        if process is not None and is_alive(process):
            stopped.append(name)
            stop_group(process, first_signal=end, grace_seconds=30)
    _servers_file(house).unlink()
    return stopped


def _servers_file(house: DemoHouse) -> Path:
    return house.state / "servers.json"


def _start_hub(house: DemoHouse) -> tuple[str, ServerProcess]:
    address = f"http://127.0.0.1:{_free_port(8090)}"
    port = address.rsplit(":", 1)[1]
    command = [str(house.stages_python), "-m", "demo.hub", "--root", str(house.hub_root), "--port", port]
    process = start_detached(command, log=house.state / "hub.log", cwd=house.checkout)

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/api/whoami-v2", timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    if not wait_until(lambda: answers() or not is_alive(process), HUB_START_SECONDS) or not is_alive(process):
        raise RuntimeError(f"The local Hub did not start: see {house.state / 'hub.log'}")
    return address, process


def _start_airflow(house: DemoHouse, hub_address: str | None) -> tuple[str, ServerProcess]:
    house.airflow_home.mkdir(parents=True, exist_ok=True)
    port = _free_port(8080)
    command = [str(house.airflow_bin / "airflow"), "standalone"]
    environment = {**os.environ, **_airflow_environment(house, port), **_airsmith_environment(house, hub_address)}
    process = start_detached(command, log=house.state / "airflow.log", cwd=house.checkout, environment=environment)
    return f"http://127.0.0.1:{port}", process


def _airflow_environment(house: DemoHouse, port: int) -> dict[str, str]:
    return {
        "PATH": f"{house.airflow_bin}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(house.airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(house.checkout / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        # A second's idle sleep between two tasks is most of what a chain of cached stages costs.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    }


def _airsmith_environment(house: DemoHouse, hub_address: str | None) -> dict[str, str]:
    hub = {"AIRSMITH_HUB_ENDPOINT": hub_address} if hub_address else {}
    return {
        **hub,
        "AIRSMITH_STORE": house.store,
        "AIRSMITH_LOCAL__STAGES_PYTHON": str(house.stages_python),
        "AIRSMITH_LOCAL__STATE_DIR": str(house.state),
    }


def _wait_for_airflow(house: DemoHouse, servers: Servers) -> None:
    wait_until(lambda: is_healthy(servers.airflow_address) or not is_alive(servers.airflow), AIRFLOW_START_SECONDS, 0.5)
    if not is_healthy(servers.airflow_address):
        stop_servers(house)
        raise RuntimeError(f"Airflow did not start: see {house.state / 'airflow.log'}")


def _free_port(wanted: int) -> int:
    """The wanted port where it is free, else one that the system picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("No port is free on 127.0.0.1.")
