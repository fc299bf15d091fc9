"""Stopping a stage's launchers before their pod exits. Ray itself is tested on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airsmith_stages import ray_nodes


@pytest.fixture
def launcher(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A script with a launcher's name that runs until SIGTERM."""
    script = tmp_path / f"{ray_nodes.LAUNCHER}-{tmp_path.name}"
    script.write_text("import sys, time\nprint('running', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen([sys.executable, script, "train"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_launchers_stop_before_ray_and_zombies_are_not_waited_for(
    launcher: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "LAUNCHER", f"{ray_nodes.LAUNCHER}-{tmp_path.name}")
    # Only RayJob images contain Ray; this script records its arguments.
    (tmp_path / "ray").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # This process is the launcher's parent and does not reap it, so that it stays a zombie.
    assert ray_nodes.main(["stop"]) == 0
    assert (tmp_path / "arguments").read_text() == "stop --force\n"
    assert launcher.wait() == -15
