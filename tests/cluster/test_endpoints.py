"""The DAG `endpoint` on a cluster: the effect of its actions on pods, objects and requests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from airsmith.cluster.access import apply, cluster_client, delete_if_exists, deployments_of
from airsmith.errors import AirsmithError
from airsmith.serving.cluster import rollout
from airsmith.serving.cluster.endpoint import roll_back, scale
from airsmith.serving.cluster.gateway import wait_until_accepted
from airsmith.serving.cluster.manifests import route
from airsmith.settings import KubernetesSettings, Settings
from demo.airflow_api import wait_until
from tests.cluster.endpoint_dag import REQUESTS, EndpointDag, endpoint_dag
from tests.cluster.fake_servers import MODEL, FakeVersions
from tests.cluster.installation import Cluster, Installation

DAG_FILE = """\
# An Airflow DAG whose endpoints are served by fake servers.
from tests.cluster.fake_servers import use_fake_servers

use_fake_servers()

from airsmith.airflow.dags.endpoint import endpoint_dag

dag = endpoint_dag()
"""
GATEWAY = os.environ.get("AIRSMITH_TEST_GATEWAY", "gateway-system/gateway")
pytestmark = pytest.mark.images("cpu")
KINDS = {
    "Deployment": "apps/v1", "ReplicaSet": "apps/v1", "Pod": "v1", "Service": "v1", "PodDisruptionBudget": "policy/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1", "ServiceMonitor": "monitoring.coreos.com/v1",
}  # fmt: skip
GARBAGE_SECONDS = 60
GATEWAY_SECONDS = 30

CHANGED = {"change": "success", "smoke_test": "skipped"}
VERIFIED = {"change": "success", "smoke_test": "success"}
SMOKE_TEST_FAILED = {"change": "success", "smoke_test": "failed"}
CHANGE_FAILED = {"change": "failed", "smoke_test": "upstream_failed"}


@pytest.fixture(scope="module")
def versions(installation: Installation) -> FakeVersions:
    return FakeVersions(installation.store)


@pytest.fixture(scope="module")
def first(versions: FakeVersions) -> int:
    """The version that serves first."""
    return versions.register()


@pytest.fixture(scope="module")
def endpoint(installation: Installation, cluster: Cluster) -> Iterator[EndpointDag]:
    with endpoint_dag(MODEL, DAG_FILE, installation, cluster) as endpoint:
        yield endpoint


@pytest.fixture
def served(endpoint: EndpointDag, first: int) -> EndpointDag:
    """The endpoint with one server of the first version."""
    assert endpoint.trigger("deploy", model=MODEL, version=first, percent=100) == VERIFIED, endpoint.log()
    assert endpoint.answers(requests=10) == {first: 10}
    return endpoint


def objects(endpoint: EndpointDag) -> set[str]:
    """The endpoint's objects in the cluster."""
    found, client = set(), DynamicClient(kubernetes.client.ApiClient())
    for kind, version in KINDS.items():
        for known in client.resources.search(api_version=version, kind=kind):
            listed = known.get(namespace=endpoint.cluster.namespace, label_selector=endpoint.selector).items
            found |= {f"{kind} {item.metadata.name}" for item in listed}
    return found


@pytest.mark.core
def test_a_canary_gets_its_share_is_promoted_and_rolled_back(served: EndpointDag, first: int, versions: FakeVersions):
    second = versions.register()
    with served.under_load():
        assert served.trigger("deploy", model=MODEL, version=second, percent=25, replicas=4) == VERIFIED, served.log()
        assert served.servers() == {first: 3, second: 1}
        answers = served.answers()
        assert 0.10 * REQUESTS < answers[second] < 0.40 * REQUESTS
        assert answers.total() == REQUESTS

        assert served.trigger("shift_traffic", percent=100) == VERIFIED, served.log()
        assert served.answers() == {second: REQUESTS}
        assert served.servers() == {second: 1}
        assert (served.record().current.version, served.record().canary) == (second, None)

        assert served.trigger("roll_back") == CHANGED, served.log()
        assert served.answers() == {first: REQUESTS}
        assert served.servers() == {first: 1}
        assert served.record().current.version == first


@pytest.mark.parametrize("percent", [None, 50])
def test_a_failed_smoke_test_rolls_back(served: EndpointDag, first: int, versions: FakeVersions, percent: int | None):
    wrong = versions.register(answers_as_base=True)
    with served.under_load():
        assert served.trigger("deploy", model=MODEL, version=wrong, percent=percent) == SMOKE_TEST_FAILED
    assert "4 of 4 answers are the base model's" in served.log()
    assert served.answers() == {first: REQUESTS}
    assert served.servers() == {first: 1}
    assert (served.record().current.version, served.record().canary) == (first, None)


@pytest.mark.parametrize("percent", [None, 50])
def test_a_server_that_does_not_start_changes_nothing(
    served: EndpointDag, first: int, versions: FakeVersions, percent: int | None
):
    broken = versions.register(startup_error="error: these are no weights")
    before = served.record()
    with served.under_load():
        assert served.trigger("deploy", model=MODEL, version=broken, percent=percent) == CHANGE_FAILED
    assert "these are no weights" in served.log()
    assert served.answers(requests=20) == {first: 20}
    assert served.record() == before
    assert served.servers() == {first: 1}


def test_scaling_changes_the_number_of_servers(
    served: EndpointDag, first: int, installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    assert served.trigger("scale", replicas=2) == CHANGED, served.log()
    assert served.servers() == {first: 2}
    assert served.record().current.replicas == 2

    monkeypatch.setattr(rollout, "max_load_seconds", lambda _: 3)
    namespace, core = served.cluster.namespace, served.cluster.core
    used_up = {"metadata": {"name": "used-up"}, "spec": {"hard": {"pods": "2"}}}
    core.create_namespaced_resource_quota(namespace, used_up)
    with pytest.raises(AirsmithError, match="exceeded quota"):
        scale(served.store, served.name, 3, cluster_client())
    core.delete_namespaced_resource_quota("used-up", namespace)
    assert [found.spec.replicas for found in running(served)] == [2]

    scaled = airsmith(installation, "scale", served.name, "1")
    assert scaled.stdout == f"{served.name} has 1 replica.\n", scaled.stderr
    assert served.servers() == {first: 1}
    assert served.answers(requests=20) == {first: 20}


def airsmith(installation: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with the rights of Airflow's worker."""
    command = [Path(sys.executable).parent / "airsmith", *arguments]
    return subprocess.run(
        command, env=installation.environment, cwd=installation.folder, capture_output=True, text=True, check=False
    )


def running(endpoint: EndpointDag) -> list[kubernetes.client.V1Deployment]:
    known = deployments_of(endpoint.name, endpoint.cluster.namespace, kubernetes.client.ApiClient())
    return [found for found in known if found.spec.replicas]


def test_a_concurrent_deployment_is_not_rolled_back(served: EndpointDag, first: int):
    settings = Settings(kubernetes=KubernetesSettings(namespace=served.cluster.namespace))
    with pytest.raises(AirsmithError, match="no longer serves revision"):
        roll_back(served.store, served.name, settings, cluster_client(), failed="another server")
    assert served.servers() == {first: 1}


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> str:
    """The URL of the Gateway."""
    namespace, name = GATEWAY.split("/")
    try:
        service = cluster.core.read_namespaced_service(name, namespace)
    except ApiException:
        pytest.skip(f"no Service of a Gateway {GATEWAY}, see AIRSMITH_TEST_GATEWAY")
    return f"http://{service.spec.cluster_ip}:{service.spec.ports[0].port}"


@pytest.mark.parametrize(
    ("gateway_name", "message"),
    [(GATEWAY, "rejects HTTPRoute lost: BackendNotFound"), ("nowhere/none", "No controller of Gateway")],
)
def test_a_route_that_no_gateway_accepts_is_reported(
    gateway: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, gateway_name: str, message: str
):
    monkeypatch.setattr("airsmith.serving.cluster.gateway.ACCEPT_TIMEOUT_SECONDS", 5)
    kubernetes_settings = KubernetesSettings(namespace=cluster.namespace, gateway=gateway_name)
    lost = route("lost", {"no-such-service": 100}, Settings(kubernetes=kubernetes_settings))
    client = cluster_client()
    apply(lost, client)
    with pytest.raises(AirsmithError, match=message):
        wait_until_accepted(lost, client)
    delete_if_exists("HTTPRoute", lost["apiVersion"], "lost", cluster.namespace, client)


@pytest.fixture
def routed(served: EndpointDag, installation: Installation, cluster: Cluster) -> Iterator[EndpointDag]:
    """The endpoint, managed by an Airsmith whose settings name the Gateway."""
    with endpoint_dag(served.name, DAG_FILE, installation, cluster, AIRSMITH_KUBERNETES__GATEWAY=GATEWAY) as endpoint:
        yield endpoint


def test_the_share_through_a_gateway_is_exact(
    gateway: str, routed: EndpointDag, cluster: Cluster, first: int, versions: FakeVersions
):
    second = versions.register()
    route = f"{gateway}/{cluster.namespace}/{routed.name}"
    for percent in (10, 40):
        assert routed.trigger("deploy", model=MODEL, version=second, percent=percent) == VERIFIED, routed.log()
        assert routed.servers() == {first: 1, second: 1}
        shared = {first: REQUESTS * (100 - percent) // 100, second: REQUESTS * percent // 100}
        assert reaches_shares(routed, route, shared)
        assert routed.answers() == {first: REQUESTS}

    assert routed.trigger("shift_traffic", percent=100) == VERIFIED, routed.log()
    assert reaches_shares(routed, route, {second: REQUESTS})
    assert routed.answers() == {second: REQUESTS}
    assert routed.trigger("roll_back") == CHANGED
    assert reaches_shares(routed, route, {first: REQUESTS})


def reaches_shares(endpoint: EndpointDag, address: str, shares: dict[int, int]) -> bool:
    """Wait until the Gateway distributes requests in these shares."""
    return wait_until(lambda: endpoint.answers(address) == shares, GATEWAY_SECONDS, 0.5)


def test_a_stopped_endpoint_leaves_no_object_and_rejects_changes(served: EndpointDag, installation: Installation):
    assert objects(served)
    assert served.trigger("stop") == CHANGED, served.log()
    assert wait_until(lambda: not objects(served), GARBAGE_SECONDS, 0.5), objects(served)
    for action, fields in {"scale": {"replicas": 2}, "shift_traffic": {"percent": 10}}.items():
        assert served.trigger(action, **fields) == CHANGE_FAILED
        assert "Deploy" in served.log()
    refused = airsmith(installation, "roll-back", served.name)
    assert refused.returncode == 1
    assert "The cluster has no previous revision of endpoint parrot" in refused.stderr
    assert served.trigger("stop") == CHANGED
    assert "was not running" in served.log()
    assert not objects(served)
