"""Preflight on a cluster: it reports at once what would stop a run's pods, and leaves nothing behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import make_plan
from airsmith.preflight.checks import preflight
from airsmith.recipe import Recipe
from airsmith.settings import Image, KubernetesSettings, Settings
from demo.hub.repository import publish
from demo.hub.server import Hub, serve
from tests.cluster import airflow_identity
from tests.cluster.installation import BUCKET, STORE_ENDPOINT_IN_PODS, Cluster

pytestmark = pytest.mark.images("cpu", "train-cpu", "vllm-cpu")

REVISION = "main"


@pytest.fixture(scope="module")
def known_images(images: Path) -> dict[str, Image]:
    content = yaml.safe_load(images.read_text())
    return {name: Image.model_validate(image) for name, image in content["kubernetes"]["images"].items()}


@pytest.fixture(scope="module")
def hub(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text("{}")
    publish(root, "model", "demo/model", folder)
    publish(root, "model", "demo/gated", folder, gated=True, readers=["somebody"])
    publish(root, "dataset", "demo/data", folder)
    with serve(root, host=cluster.host_address) as hub:
        yield hub


@pytest.fixture
def settings(cluster: Cluster, hub: Hub, known_images: dict[str, Image]) -> Settings:
    return Settings(
        runtime="kubernetes",
        store=f"s3://{BUCKET}/test-{uuid.uuid4().hex[:8]}",
        hub_endpoint=hub.url,
        kubernetes=KubernetesSettings(
            namespace=cluster.namespace,
            images=known_images,
            store_secret="store",
            scratch_size="1Gi",
            environment={"AWS_ENDPOINT_URL": STORE_ENDPOINT_IN_PODS, "AWS_REGION": "us-east-1"},
        ),
    )


@pytest.fixture(scope="module")
def client(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> kubernetes.client.ApiClient:
    """A client with the rights of Airflow's service account."""
    file = airflow_identity.kubeconfig(cluster.namespace, tmp_path_factory.mktemp("identity"))
    return kubernetes.config.new_client_from_config(str(file))


@pytest.fixture
def check(settings: Settings, client: kubernetes.client.ApiClient) -> Callable[..., Run]:
    """Run preflight for a spec as `resolve` writes it."""

    def check(changed: dict[str, Any] | None = None, model: str = "demo/model", **sections: Any) -> Run:
        recipe = Recipe.model_validate(
            {
                "name": "tickets",
                "model": {"id": model, "revision": REVISION},
                "dataset": {"id": "demo/data", "revision": REVISION, "validation_fraction": 0.1},
                **sections,
            }
        )
        ours = settings.kubernetes.model_copy(update=changed or {})
        plan = make_plan(recipe)
        run = Run(Store.open(settings.store), f"runs/finetune_tickets/manual-{uuid.uuid4().hex[:8]}")
        run.write_spec(
            RunSpec(
                dag_id="finetune_tickets",
                run_id="manual",
                recipe=recipe,
                recipe_file="tickets.yaml",
                recipe_digest="",
                plan=plan,
                airsmith_version="0",
                images={stage.image: ours.images[stage.image].reference for stage in plan.stages},
                toolchains={},
                created_at=datetime.now(timezone.utc),
            )
        )
        preflight(run, settings.model_copy(update={"kubernetes": ours}), client)
        return run

    return check


def test_success_leaves_nothing_behind(check: Callable[..., Run], cluster: Cluster) -> None:
    run = check()
    assert [info.path for info in run.store.list(run.path)] == [f"{run.path}/spec.json"]
    assert not cluster.pods("tickets-preflight-")


def test_several_failures_are_reported_together(check: Callable[..., Run], cluster: Cluster) -> None:
    backend = {"name": "cpu", "queue": "nobody", "resources": {"memory": "900Ti"}}
    with pytest.raises(AirsmithError) as caught:
        check(model="demo/gated", backend=backend)
    said = str(caught.value)
    assert said.startswith("3 checks failed:")
    assert "backend.queue is 'nobody', but" in said
    assert "No node fits the pod of stage train: it requests memory" in said
    assert "demo/gated is gated" in said
    assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.ACCESS_DENIED)
    assert not cluster.pods("tickets-preflight-")


def test_a_missing_accelerator_is_named(check: Callable[..., Run], known_images: dict[str, Image]) -> None:
    built = {**known_images, "train-cuda": known_images["train-cpu"]}
    with pytest.raises(AirsmithError, match=r"none offers nvidia\.com/gpu") as caught:
        check({"images": built}, backend={"name": "cuda"}, evaluate={"backend": "cpu"})
    assert caught.value.kind is ErrorKind.UNSCHEDULABLE
    check({"images": built, "check_placement": False}, backend={"name": "cuda"}, evaluate={"backend": "cpu"})


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"store_secret": "absent"}, ErrorKind.ACCESS_DENIED, 'secret "absent" not found'),
        ({"hub_secret": "absent"}, ErrorKind.ACCESS_DENIED, 'secret "absent" not found'),
        ({"namespace": "absent"}, ErrorKind.ACCESS_DENIED, "absent"),
        ({"environment": {"AWS_ENDPOINT_URL": "http://nowhere.invalid"}}, ErrorKind.STORE_UNAVAILABLE, "nowhere"),
    ],
)
def test_an_unusable_setting_is_reported(
    check: Callable[..., Run], cluster: Cluster, changed: dict[str, Any], kind: ErrorKind, said: str
) -> None:
    if "environment" in changed:
        changed = {"environment": {**changed["environment"], "AIRSMITH_STORE_DEADLINE_SECONDS": "2"}}
    with pytest.raises(AirsmithError) as caught:
        check(changed)
    assert said in str(caught.value)
    assert caught.value.kind is kind
    assert not cluster.pods("tickets-preflight-")


def test_a_missing_image_is_reported(check: Callable[..., Run], known_images: dict[str, Image]) -> None:
    absent = Image(reference=f"{known_images['cpu'].reference.partition('@')[0]}@sha256:{'0' * 64}")
    with pytest.raises(AirsmithError) as caught:
        check({"images": {**known_images, "cpu": absent}})
    assert caught.value.kind is ErrorKind.IMAGE_PULL_FAILED


@pytest.fixture
def quota(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Limits the total memory requests of the namespace."""
    name = "memory"

    def limit(memory: str) -> None:
        body = {"metadata": {"name": name}, "spec": {"hard": {"requests.memory": memory}}}
        cluster.core.create_namespaced_resource_quota(cluster.namespace, body)
        watch = kubernetes.watch.Watch()
        for event in watch.stream(cluster.core.list_namespaced_resource_quota, cluster.namespace, timeout_seconds=30):
            if event["object"].status.hard:
                watch.stop()

    yield limit
    cluster.core.delete_namespaced_resource_quota(name, cluster.namespace)


def test_an_exhausted_quota_is_reported(check: Callable[..., Run], quota: Callable[[str], None]) -> None:
    quota("3Gi")
    with pytest.raises(AirsmithError, match="The pod of stage tokenize exceeds the namespace's quota") as caught:
        check()
    assert caught.value.kind is ErrorKind.UNSCHEDULABLE
