"""Preflight on a real cluster: what would stop a run's pods is told at once, in words, and nothing is left behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import airflow_identity
import kubernetes
import pytest
import yaml
from conftest import BUCKET, STORE_AS_PODS_SEE_IT, Cluster

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

REVISION = "main"


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    if "AIRSMITH_TEST_SETTINGS" not in os.environ:
        pytest.skip("no images: AIRSMITH_TEST_SETTINGS names no settings file, see `make images`")
    content = yaml.safe_load(Path(os.environ["AIRSMITH_TEST_SETTINGS"]).read_text())
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
def settings(cluster: Cluster, hub: Hub, images: dict[str, Image]) -> Settings:
    return Settings(
        runtime="kubernetes",
        store=f"s3://{BUCKET}/test-{uuid.uuid4().hex[:8]}",
        hub_endpoint=hub.url,
        kubernetes=KubernetesSettings(
            namespace=cluster.namespace,
            images=images,
            store_secret="store",
            scratch_size="1Gi",
            environment={"AWS_ENDPOINT_URL": STORE_AS_PODS_SEE_IT, "AWS_REGION": "us-east-1"},
        ),
    )


@pytest.fixture(scope="module")
def client(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> kubernetes.client.ApiClient:
    """The cluster as Airflow's own service account sees it."""
    file = airflow_identity.kubeconfig(cluster.namespace, tmp_path_factory.mktemp("identity"))
    return kubernetes.config.new_client_from_config(str(file))


@pytest.fixture
def look(settings: Settings, client: kubernetes.client.ApiClient) -> Callable[..., Run]:
    """Preflight of a run that `resolve` might have written."""

    def look(changed: dict[str, Any] | None = None, model: str = "demo/model", **sections: Any) -> Run:
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

    return look


def test_where_all_is_well_nothing_is_left_behind(look: Callable[..., Run], cluster: Cluster) -> None:
    run = look()
    assert [info.path for info in run.store.list(run.path)] == [f"{run.path}/spec.json"]
    assert not cluster.pods("tickets-preflight-")


def test_several_failures_are_told_together(look: Callable[..., Run], cluster: Cluster) -> None:
    backend = {"name": "cpu", "queue": "nobody", "resources": {"memory": "900Ti"}}
    with pytest.raises(AirsmithError) as caught:
        look(model="demo/gated", backend=backend)
    said = str(caught.value)
    assert said.startswith("3 checks failed:")
    assert "backend.queue is 'nobody', but" in said
    assert "No node could take the pod of stage train: it asks for memory" in said
    assert "demo/gated is gated" in said
    assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.ACCESS_DENIED)
    assert not cluster.pods("tickets-preflight-")


def test_an_accelerator_that_no_node_has_is_named(look: Callable[..., Run], images: dict[str, Image]) -> None:
    built = {**images, "train-cuda": images["train-cpu"]}
    with pytest.raises(AirsmithError, match=r"none offers nvidia\.com/gpu") as caught:
        look({"images": built}, backend={"name": "cuda"}, evaluate={"backend": "cpu"})
    assert caught.value.kind is ErrorKind.UNSCHEDULABLE
    look({"images": built, "check_placement": False}, backend={"name": "cuda"}, evaluate={"backend": "cpu"})


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"store_secret": "absent"}, ErrorKind.ACCESS_DENIED, 'secret "absent" not found'),
        ({"hub_secret": "absent"}, ErrorKind.ACCESS_DENIED, 'secret "absent" not found'),
        ({"namespace": "absent"}, ErrorKind.ACCESS_DENIED, "absent"),
        ({"environment": {"AWS_ENDPOINT_URL": "http://nowhere.invalid"}}, ErrorKind.STORE_UNAVAILABLE, "nowhere"),
    ],
)
def test_what_stands_in_the_way_is_told(
    look: Callable[..., Run], cluster: Cluster, changed: dict[str, Any], kind: ErrorKind, said: str
) -> None:
    if "environment" in changed:
        changed = {"environment": {**changed["environment"], "AIRSMITH_STORE_DEADLINE_SECONDS": "2"}}
    with pytest.raises(AirsmithError) as caught:
        look(changed)
    assert said in str(caught.value)
    assert caught.value.kind is kind
    assert not cluster.pods("tickets-preflight-")


def test_an_image_that_cannot_be_pulled_is_told(look: Callable[..., Run], images: dict[str, Image]) -> None:
    absent = Image(reference=f"{images['cpu'].reference.partition('@')[0]}@sha256:{'0' * 64}")
    with pytest.raises(AirsmithError) as caught:
        look({"images": {**images, "cpu": absent}})
    assert caught.value.kind is ErrorKind.IMAGE_PULL_FAILED


@pytest.fixture
def quota(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Limits the memory that the namespace's pods may ask for together."""
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


def test_a_quota_that_is_too_small_is_told(look: Callable[..., Run], quota: Callable[[str], None]) -> None:
    quota("3Gi")
    with pytest.raises(AirsmithError, match="quota leaves no room for the pod of tokenize") as caught:
        look()
    assert caught.value.kind is ErrorKind.UNSCHEDULABLE
