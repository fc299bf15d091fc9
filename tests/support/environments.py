"""Stand-ins for the stages' virtual environment: an interpreter, and the metadata of installed distributions."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from airsmith.settings import LocalSettings, Settings


def write_interpreter(path: Path, code: str) -> Path:
    """Write an executable that ignores its arguments and runs this Python code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
    path.chmod(0o755)
    return path


def write_distributions(venv: Path, *names: str, version: str = "1.0") -> None:
    """Write the metadata of installed distributions, without importable code."""
    for name in names:
        metadata = venv / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def stage_settings(folder: Path, code: str, **local: Any) -> Settings:
    """Settings whose stages run this Python code, on the store in `folder`.

    :param local: fields of the section `local`.
    """
    python = write_interpreter(folder / "python", code)
    return Settings(
        store=f"file://{folder}/store",
        hub_endpoint="http://hub.test",
        local=LocalSettings.model_validate({"stages_python": python, **local}),
    )
