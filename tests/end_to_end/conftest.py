"""One Airsmith for all end-to-end tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import yaml

from demo.hub.server import serve
from tests.end_to_end.house import RECIPE, REPOSITORY, STAGES_PYTHON, House, stop_servers


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with serve(folder / "hub") as hub:
        house = House(folder, hub.url)
        house.recipe.parent.mkdir(parents=True)
        house.recipe.write_text(yaml.safe_dump(RECIPE))
        for shape in ("finetune.py", "sweep.py"):
            (house.recipe.parent.parent / shape).write_text((REPOSITORY / "dags" / shape).read_text())
        database = house.start("airflow", "db", "migrate")
        subprocess.run([STAGES_PYTHON, "-m", "demo.publish", "--root", folder / "hub"], cwd=REPOSITORY, check=True)
        house.finish(database)
        yield house
        stop_servers(folder)
