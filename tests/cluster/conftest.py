"""Fixtures and test selection for the cluster that KUBECONFIG names.

The tests also need the store's AWS_* variables and, in AIRSMITH_TEST_SETTINGS, the settings file that
`make images SETTINGS=…` wrote. Without a cluster they are skipped.

`--core` selects the core set, `--shard K/N` one of N shards of all other tests, `--shard COMMIT` the shard that a
commit's hash determines; together they select both. AIRSMITH_TEST_SHARD sets `--shard`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.airflow_server import AirflowServer, airflow_server
from tests.cluster.installation import Cluster, Installation, install_airsmith, new_namespace
from tests.cluster.selection import Shard, function_of, known_durations, parse_shard, shards_of

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("no cluster: KUBECONFIG is not set")
    with new_namespace() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def images() -> Path:
    """The settings file that names the images."""
    if "AIRSMITH_TEST_SETTINGS" not in os.environ:
        pytest.skip("no images: AIRSMITH_TEST_SETTINGS names no settings file, see `make images`")
    return Path(os.environ["AIRSMITH_TEST_SETTINGS"])


@pytest.fixture(scope="session")
def installation(cluster: Cluster, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with install_airsmith(cluster, tmp_path_factory.mktemp("installation"), images) as installation:
        yield installation


@pytest.fixture(scope="session")
def airflow(installation: Installation) -> Iterator[AirflowServer]:
    with airflow_server(installation) as airflow:
        yield airflow


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster")
    group.addoption("--core", action="store_true", help="run the tests marked `core`")
    group.addoption("--shard", type=_shard, metavar="K/N|COMMIT", help="run one shard of the tests not marked `core`")
    group.addoption("--durations-file", type=Path, metavar="FILE", help="update the durations that balance the shards")
    group.addoption("--images-file", type=Path, metavar="FILE", help="write the names of the needed images to a file")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("durations_file", default=None)
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(DurationsRecorder(file))


class DurationsRecorder:
    """Writes the seconds of each test function, set-up included, to a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[function_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        known |= {function: round(seconds, 1) for function, seconds in self._seconds.items()}
        self._file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def pytest_report_header(config: pytest.Config) -> str | None:
    shard = _selected_shard(config)
    return str(shard) if shard else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    core, shard = config.getoption("core", default=False), _selected_shard(config)
    if not core and shard is None:
        return
    ours = [item for item in items if FOLDER in item.path.parents]
    selected = {item.nodeid for item in ours if core and item.get_closest_marker("core")}
    if shard is not None:
        others = [
            item.nodeid for item in ours if not (item.get_closest_marker("core") or item.get_closest_marker("long"))
        ]
        selected |= set(shards_of(others, shard.count, known_durations())[shard.number - 1])
    deselected = [item for item in ours if item.nodeid not in selected]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


def pytest_collection_finish(session: pytest.Session) -> None:
    file: Path | None = session.config.getoption("images_file", default=None)
    if file is not None:
        markers = (marker for item in session.items for marker in item.iter_markers("images"))
        file.write_text(" ".join(sorted({name for marker in markers for name in marker.args})) + "\n")


def _selected_shard(config: pytest.Config) -> Shard | None:
    shard: Shard | None = config.getoption("shard", default=None)
    if shard is None and (text := os.environ.get("AIRSMITH_TEST_SHARD")):
        return _shard(text)
    return shard


def _shard(text: str) -> Shard:
    try:
        return parse_shard(text)
    except ValueError as error:
        raise pytest.UsageError(f"--shard: {error}") from error
