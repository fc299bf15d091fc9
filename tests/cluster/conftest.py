"""A namespace of its own on the cluster that KUBECONFIG names, and an Airsmith that runs its stages there.

Beside KUBECONFIG the tests need the settings file that `make images SETTINGS=…` wrote, named by AIRSMITH_TEST_SETTINGS,
and the store's AWS_* variables. Without a cluster they are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.deploying import (
    BUCKET,
    REPOSITORY,
    STAGES_PYTHON,
    STORE_AS_PODS_SEE_IT,
    Cluster,
    Deployment,
    deployed,
    own_namespace,
)
from tests.cluster.standalone import Airflow, standalone

__all__ = ["BUCKET", "REPOSITORY", "STAGES_PYTHON", "STORE_AS_PODS_SEE_IT", "Cluster", "Deployment"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("no cluster: KUBECONFIG is not set")
    with own_namespace() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def deployment(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    if "AIRSMITH_TEST_SETTINGS" not in os.environ:
        pytest.skip("no images: AIRSMITH_TEST_SETTINGS names no settings file, see `make images`")
    images = Path(os.environ["AIRSMITH_TEST_SETTINGS"])
    with deployed(cluster, tmp_path_factory.mktemp("deployment"), images) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def airflow(deployment: Deployment) -> Iterator[Airflow]:
    with standalone(deployment) as airflow:
        yield airflow
