"""`python -m demo.hub` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from huggingface_hub import HfApi

from demo.hub.server import Hub
from tests.support.hub_repositories import MODEL


def test_it_serves_until_sigterm(root: Path, tmp_path: Path) -> None:
    address_file = tmp_path / "address"
    arguments = ["--root", str(root), "--address-file", str(address_file)]
    with subprocess.Popen([sys.executable, "-m", "demo.hub", *arguments]) as process:
        try:
            address = wait_for_address(address_file, process)
            assert HfApi(address, token=False).model_info(MODEL).id == MODEL
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not address_file.exists()


def test_a_port_in_use_is_named_in_the_error(hub: Hub, root: Path, tmp_path: Path) -> None:
    port = hub.url.rpartition(":")[2]
    arguments = ["--root", str(root), "--port", port, "--address-file", str(tmp_path / "address")]
    completed = subprocess.run([sys.executable, "-m", "demo.hub", *arguments], capture_output=True, text=True)
    assert completed.returncode == 1
    assert f"127.0.0.1:{port}" in completed.stderr
    assert "--port" in completed.stderr
    assert not (tmp_path / "address").exists()


def wait_for_address(address_file: Path, process: subprocess.Popen[bytes]) -> str:
    while not address_file.exists():
        assert process.poll() is None, "the local Hub exited before it wrote its address"
        time.sleep(0.02)
    return address_file.read_text()
