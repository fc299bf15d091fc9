"""Local Hubs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.hub.server import HOST, Hub, serve
from tests.support.repository import REPOSITORY, STAGES_PYTHON


@contextmanager
def make_demo_hub(folder: Path, *, host: str = HOST) -> Iterator[Hub]:
    """Serve a Hub that contains the demo's model and dataset.

    :param host: address to listen on; pods require one that they can reach.
    """
    # Building the model requires torch, which only the stages' virtual environment contains.
    subprocess.run([STAGES_PYTHON, "-m", "demo.publish", "--root", folder], cwd=REPOSITORY, check=True)
    with serve(folder, host=host) as hub:
        yield hub
