"""The GPU benchmark runs on a machine without a GPU in its tiny mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_tiny_mode_runs_every_case(tmp_path: Path) -> None:
    result = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", str(result)]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    cases = json.loads(result.read_text())["cases"]
    assert set(cases) == {"lora tiny", "lora tiny packed", "full tiny"}
    for name, arms in cases.items():
        assert "failed" not in arms["airsmith"], arms["airsmith"]
        assert len(arms["airsmith"]["losses"]) == 3, name
    assert "failed" not in cases["lora tiny"]["transformers"]
    # Both start from the same random weights; only the order of the rows differs.
    ours, theirs = (cases["lora tiny"][arm]["losses"][0] for arm in ("airsmith", "transformers"))
    assert abs(ours - theirs) < 0.1
