"""The distributions installed in another interpreter's environment, read from metadata without starting it."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path


def installed_versions(python: Path) -> dict[str, str]:
    """Installed versions of a virtual environment, by distribution.

    :param python: its interpreter.
    """
    folders = [str(folder) for folder in python.parent.parent.glob("lib*/python3*/site-packages")]
    return {distribution.name: distribution.version for distribution in distributions(path=folders)}
