"""What ends a stage's launchers before their pod ends. All that Ray itself does is tested on a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airsmith_stages import ray_nodes


@pytest.fixture
def launcher(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A script of a launcher's name that works until it is told to stop."""
    script = tmp_path / f"{ray_nodes.LAUNCHER}-{tmp_path.name}"
    script.write_text("import sys, time\nprint('at work', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen([sys.executable, script, "train"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_launcher_is_told_to_stop_and_one_whose_end_nobody_notes_is_not_waited_for(
    launcher: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "LAUNCHER", f"{ray_nodes.LAUNCHER}-{tmp_path.name}")
    # This process is its parent and asks for nothing: it stays a zombie.
    ray_nodes.stop_launchers()
    assert launcher.wait() == -15
