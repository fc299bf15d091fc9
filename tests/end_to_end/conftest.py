"""One local installation of Airsmith for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.hub.server import Hub
from tests.support.airflow_home import AirflowHome, make_airflow_home
from tests.support.hub import make_demo_hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with make_demo_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="session")
def airflow_home(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    with make_airflow_home(tmp_path_factory.mktemp("airflow-home"), hub) as home:
        yield home
