"""The DAG `endpoint` on a real cluster: what its actions do to pods, objects and the requests that people send."""

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
from tests.cluster.deploying import Cluster, Deployment
from tests.cluster.endpoint_form import REQUESTS, EndpointForm, endpoint_form
from tests.cluster.stand_in import MODEL, Versions

DAG_FILE = """\
# An Airflow DAG whose endpoints are served by stand-ins.
from tests.cluster.stand_in import serve_by_stand_in

serve_by_stand_in()

from airsmith.airflow.dags.endpoint import endpoint_dag

dag = endpoint_dag()
"""
GATEWAY = os.environ.get("AIRSMITH_TEST_GATEWAY", "gateway-system/gateway")
KINDS = {
    "Deployment": "apps/v1", "ReplicaSet": "apps/v1", "Pod": "v1", "Service": "v1", "PodDisruptionBudget": "policy/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1", "ServiceMonitor": "monitoring.coreos.com/v1",
}  # fmt: skip
GARBAGE_SECONDS = 60
GATEWAY_SECONDS = 30

CHANGED = {"change": "success", "smoke_test": "skipped"}
PROVED = {"change": "success", "smoke_test": "success"}
DISPROVED = {"change": "success", "smoke_test": "failed"}
UNCHANGED = {"change": "failed", "smoke_test": "upstream_failed"}


@pytest.fixture(scope="module")
def versions(deployment: Deployment) -> Versions:
    return Versions(deployment.store)


@pytest.fixture(scope="module")
def first(versions: Versions) -> int:
    """The version that serves before anything happens."""
    return versions.register()


@pytest.fixture(scope="module")
def form(deployment: Deployment, cluster: Cluster) -> Iterator[EndpointForm]:
    with endpoint_form(MODEL, DAG_FILE, deployment, cluster) as form:
        yield form


@pytest.fixture
def alone(form: EndpointForm, first: int) -> EndpointForm:
    """The endpoint with the first version, one server."""
    assert form.trigger("deploy", model=MODEL, version=first, percent=100) == PROVED, form.said()
    assert form.answers(requests=10) == {first: 10}
    return form


def objects(form: EndpointForm) -> set[str]:
    """All that the cluster has of the endpoint."""
    found, client = set(), DynamicClient(kubernetes.client.ApiClient())
    for kind, version in KINDS.items():
        for known in client.resources.search(api_version=version, kind=kind):
            listed = known.get(namespace=form.cluster.namespace, label_selector=form.selector).items
            found |= {f"{kind} {item.metadata.name}" for item in listed}
    return found


def test_a_version_takes_its_share_then_all_and_is_taken_back(alone: EndpointForm, first: int, versions: Versions):
    second = versions.register()
    with alone.asked_all_along():
        assert alone.trigger("deploy", model=MODEL, version=second, percent=25, replicas=4) == PROVED, alone.said()
        assert alone.servers() == {first: 3, second: 1}
        answers = alone.answers()
        assert 0.10 * REQUESTS < answers[second] < 0.40 * REQUESTS
        assert answers.total() == REQUESTS

        assert alone.trigger("shift_traffic", percent=100) == PROVED, alone.said()
        assert alone.answers() == {second: REQUESTS}
        assert alone.servers() == {second: 1}
        assert (alone.record().current.version, alone.record().canary) == (second, None)

        assert alone.trigger("roll_back") == CHANGED, alone.said()
        assert alone.answers() == {first: REQUESTS}
        assert alone.servers() == {first: 1}
        assert alone.record().current.version == first


@pytest.mark.parametrize("percent", [None, 50])
def test_what_its_smoke_test_disproves_is_taken_back(
    alone: EndpointForm, first: int, versions: Versions, percent: int | None
):
    liar = versions.register(lies=True)
    with alone.asked_all_along():
        assert alone.trigger("deploy", model=MODEL, version=liar, percent=percent) == DISPROVED
    assert "4 of 4 answers are the base model's" in alone.said()
    assert alone.answers() == {first: REQUESTS}
    assert alone.servers() == {first: 1}
    assert (alone.record().current.version, alone.record().canary) == (first, None)


@pytest.mark.parametrize("percent", [None, 50])
def test_what_does_not_come_up_changes_nothing(
    alone: EndpointForm, first: int, versions: Versions, percent: int | None
):
    broken = versions.register(refusal="error: these are no weights")
    before = alone.record()
    with alone.asked_all_along():
        assert alone.trigger("deploy", model=MODEL, version=broken, percent=percent) == UNCHANGED
    assert "these are no weights" in alone.said()
    assert alone.answers(requests=20) == {first: 20}
    assert alone.record() == before
    assert alone.servers() == {first: 1}


def test_servers_come_and_go(alone: EndpointForm, first: int, deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    assert alone.trigger("scale", replicas=2) == CHANGED, alone.said()
    assert alone.servers() == {first: 2}
    assert alone.record().current.replicas == 2

    monkeypatch.setattr(rollout, "max_load_seconds", lambda _: 3)
    namespace, core = alone.cluster.namespace, alone.cluster.core
    used_up = {"metadata": {"name": "used-up"}, "spec": {"hard": {"pods": "2"}}}
    core.create_namespaced_resource_quota(namespace, used_up)
    with pytest.raises(AirsmithError, match="exceeded quota"):
        scale(alone.store, alone.name, 3, cluster_client())
    core.delete_namespaced_resource_quota("used-up", namespace)
    assert [found.spec.replicas for found in running(alone)] == [2]

    said = airsmith(deployment, "scale", alone.name, "1")
    assert said.stdout == f"{alone.name} has 1 server.\n", said.stderr
    assert alone.servers() == {first: 1}
    assert alone.answers(requests=20) == {first: 20}


def airsmith(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the rights of Airflow's worker."""
    command = [Path(sys.executable).parent / "airsmith", *arguments]
    return subprocess.run(
        command, env=deployment.environment, cwd=deployment.folder, capture_output=True, text=True, check=False
    )


def running(form: EndpointForm) -> list[kubernetes.client.V1Deployment]:
    known = deployments_of(form.name, form.cluster.namespace, kubernetes.client.ApiClient())
    return [found for found in known if found.spec.replicas]


def test_what_was_deployed_meanwhile_is_not_rolled_back(alone: EndpointForm, first: int):
    settings = Settings(kubernetes=KubernetesSettings(namespace=alone.cluster.namespace))
    with pytest.raises(AirsmithError, match="has come to serve something else meanwhile"):
        roll_back(alone.store, alone.name, settings, cluster_client(), failed="another server")
    assert alone.servers() == {first: 1}


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> str:
    """Where the Gateway's controller answers."""
    namespace, name = GATEWAY.split("/")
    try:
        service = cluster.core.read_namespaced_service(name, namespace)
    except ApiException:
        pytest.skip(f"no Service of a Gateway {GATEWAY}, see AIRSMITH_TEST_GATEWAY")
    return f"http://{service.spec.cluster_ip}:{service.spec.ports[0].port}"


@pytest.mark.parametrize(
    ("leads_to", "said"), [(GATEWAY, "refuses the route of lost: BackendNotFound"), ("nowhere/none", "has looked at")]
)
def test_a_route_that_no_gateway_takes_is_told(
    gateway: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, leads_to: str, said: str
):
    monkeypatch.setattr("airsmith.serving.cluster.gateway.ACCEPT_TIMEOUT_SECONDS", 5)
    kubernetes_settings = KubernetesSettings(namespace=cluster.namespace, gateway=leads_to)
    lost = route("lost", {"no-such-service": 100}, Settings(kubernetes=kubernetes_settings))
    client = cluster_client()
    apply(lost, client)
    with pytest.raises(AirsmithError, match=said):
        wait_until_accepted(lost, client)
    delete_if_exists("HTTPRoute", lost["apiVersion"], "lost", cluster.namespace, client)


@pytest.fixture
def weighed(alone: EndpointForm, deployment: Deployment, cluster: Cluster) -> Iterator[EndpointForm]:
    """The endpoint, changed by an Airsmith that knows the Gateway."""
    with endpoint_form(alone.name, DAG_FILE, deployment, cluster, AIRSMITH_KUBERNETES__GATEWAY=GATEWAY) as form:
        yield form


def test_through_a_gateway_the_share_is_exact(
    gateway: str, weighed: EndpointForm, cluster: Cluster, first: int, versions: Versions
):
    second = versions.register()
    route = f"{gateway}/{cluster.namespace}/{weighed.name}"
    for percent in (10, 40):
        assert weighed.trigger("deploy", model=MODEL, version=second, percent=percent) == PROVED, weighed.said()
        assert weighed.servers() == {first: 1, second: 1}
        shared = {first: REQUESTS * (100 - percent) // 100, second: REQUESTS * percent // 100}
        assert comes_to_answer(weighed, route, shared)
        assert weighed.answers() == {first: REQUESTS}

    assert weighed.trigger("shift_traffic", percent=100) == PROVED, weighed.said()
    assert comes_to_answer(weighed, route, {second: REQUESTS})
    assert weighed.answers() == {second: REQUESTS}
    assert weighed.trigger("roll_back") == CHANGED
    assert comes_to_answer(weighed, route, {first: REQUESTS})


def comes_to_answer(form: EndpointForm, address: str, shared: dict[int, int]) -> bool:
    """Whether the Gateway, which takes its time, shares requests so."""
    return wait_until(lambda: form.answers(address) == shared, GATEWAY_SECONDS, 0.5)


def test_a_stopped_endpoint_leaves_no_object_and_can_only_be_deployed_anew(alone: EndpointForm, deployment: Deployment):
    assert objects(alone)
    assert alone.trigger("stop") == CHANGED, alone.said()
    assert wait_until(lambda: not objects(alone), GARBAGE_SECONDS, 0.5), objects(alone)
    for action, fields in {"scale": {"replicas": 2}, "shift_traffic": {"percent": 10}}.items():
        assert alone.trigger(action, **fields) == UNCHANGED
        assert "Deploy" in alone.said()
    refused = airsmith(deployment, "roll-back", alone.name)
    assert refused.returncode == 1
    assert "The cluster holds nothing that endpoint parrot served before" in refused.stderr
    assert alone.trigger("stop") == CHANGED
    assert "was not running" in alone.said()
    assert not objects(alone)
