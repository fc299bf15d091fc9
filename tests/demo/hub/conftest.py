"""A local Hub with public, private and gated repositories, and a client for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from demo.hub.server import Hub, serve
from tests.support.hub_repositories import publish_repositories, write_files


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files."""
    folder = tmp_path_factory.mktemp("model")
    write_files(folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The folder that the Hub serves."""
    root = tmp_path_factory.mktemp("root")
    publish_repositories(root, folder)
    return root


@pytest.fixture(scope="session")
def hub(root: Path) -> Iterator[Hub]:
    with serve(root) as hub:
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(hub.url, token=False)
