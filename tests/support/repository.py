"""Places in the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STAGES_PYTHON = REPOSITORY / ".venvs" / "stages" / "bin" / "python"


def committed_files() -> list[str]:
    """Paths of all committed files, relative to the repository."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]
