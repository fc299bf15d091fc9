"""The pieces of a test with `airflow standalone`: API server, scheduler with its workers, DAG processor, triggerer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

STOP_SECONDS = 20


def free_address() -> str:
    """An HTTP address on a loopback port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def standalone_environment(address: str) -> dict[str, str]:
    """Variables with which `airflow standalone` serves its API at an address."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": address.rsplit(":", 1)[1],
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
    }


def stop_standalone(process: subprocess.Popen[Any]) -> None:
    """Stop `airflow standalone` and its children; kill those that still run after 20 s."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for survivor in alive:
        survivor.kill()
    process.wait()
