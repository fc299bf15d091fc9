"""A stage's pod is the one in `golden/`, for every backend. After a wanted change: AIRSMITH_TEST_GOLDEN=write."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.settings import Image, KubernetesSettings, Settings

GOLDEN = Path(__file__).parent / "golden"
DIGEST = "0123456789abcdef" * 4
IMAGES = {
    name: Image(reference=f"registry.example/{name}@sha256:{'0' * 64}")
    for name in ("cpu", "train-cpu", "train-cuda", "train-rocm", "train-neuron-xla", "train-neuron-native")
}
SETTINGS = Settings(
    runtime="kubernetes",
    store="s3://bucket/prefix",
    hub_endpoint="https://huggingface.co",
    team="nlp",
    kubernetes=KubernetesSettings(
        images=IMAGES,
        environment={"AWS_ENDPOINT_URL": "http://minio.storage:9000"},
        store_secret="store",
        hub_secret="hub",
        image_pull_secrets=("registry",),
    ),
)
BACKENDS = {
    "cpu": {"name": "cpu"},
    "cuda": {"name": "cuda", "devices": 4, "instance_type": "p5.48xlarge", "resources": {"memory": "200Gi"}},
    "rocm": {"name": "rocm", "queue": "amd", "priority": "high"},
    "trn1.2xlarge": {"name": "neuron_xla", "instance_type": "trn1.2xlarge"},
    "trn1.32xlarge": {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
    "trn1.32xlarge-part": {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 4},
    "trn1n.32xlarge-nodes": {"name": "neuron_xla", "instance_type": "trn1n.32xlarge", "devices": 16, "nodes": 2},
    "trn2.3xlarge": {"name": "neuron_xla", "instance_type": "trn2.3xlarge"},
    "trn2.48xlarge": {"name": "neuron_xla", "instance_type": "trn2.48xlarge", "devices": 16},
    "trn2.48xlarge-native": {"name": "neuron_native", "instance_type": "trn2.48xlarge", "devices": 16},
}


def make_spec(**sections: Any) -> RunSpec:
    recipe = Recipe.model_validate(
        {
            "name": "ticket-triage",
            "model": {"id": "a/b"},
            "dataset": {"id": "c/d", "validation_fraction": 0.1},
            "training": {"total_train_batch_size": 64},
            **sections,
        }
    )
    return RunSpec(
        dag_id="finetune_ticket_triage",
        run_id="manual",
        recipe=recipe,
        recipe_file="ticket-triage.yaml",
        recipe_digest="",
        plan=make_plan(recipe),
        airsmith_version="1.0",
        bundle_version="c0ffee",
        created_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )


def pods_of(spec: RunSpec, settings: Settings = SETTINGS) -> dict[str, dict[str, Any]]:
    """The pods of a run by stage, as the API server would get them."""
    run = Run(Store.open("s3://bucket/prefix"), "runs/dag/run-0badcafe")
    client = ApiClient()
    stages = [plan.stage for plan in spec.plan.stages if not plan.runs_in_worker]
    return {stage: client.sanitize_for_serialization(stage_pod(stage, run, spec, DIGEST, settings)) for stage in stages}


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_pods_of_a_backend_are_the_golden_ones(backend: str) -> None:
    pods = pods_of(make_spec(backend=BACKENDS[backend]))
    file = GOLDEN / f"{backend}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        file.write_text(yaml.safe_dump_all(pods.values(), sort_keys=True), encoding="utf-8")
    assert list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) == list(pods.values())


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_only_what_computes_on_a_device_asks_for_one(backend: str) -> None:
    for stage, pod in pods_of(make_spec(backend=BACKENDS[backend])).items():
        asks = any("/" in name for name in pod["spec"]["containers"][0]["resources"]["requests"])
        computing = ("compile", "train") if backend.startswith("trn") else ("train", "evaluate")
        assert asks == (backend != "cpu" and stage in computing), stage


def test_secrets_reach_pods_by_reference_and_the_token_only_those_that_talk_to_the_hub() -> None:
    for stage, pod in pods_of(make_spec()).items():
        variables = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
        assert ("HF_TOKEN" in variables) == stage.startswith("mirror_"), stage
        assert ("HF_HUB_OFFLINE" in variables) != stage.startswith("mirror_"), stage
        if "HF_TOKEN" in variables:
            assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


def test_a_training_is_left_where_it_is_and_given_time_for_a_last_checkpoint() -> None:
    for stage, pod in pods_of(make_spec()).items():
        annotations = pod["metadata"]["annotations"]
        assert ("karpenter.sh/do-not-disrupt" in annotations) == (stage in TRAINING)
        assert pod["spec"]["terminationGracePeriodSeconds"] == (120 if stage in TRAINING else 30)


def test_a_token_in_an_airflow_connection_is_refused_where_pods_need_it() -> None:
    with pytest.raises(AirsmithError, match=r"secrets\.hf_token.*kubernetes_secret"):
        pods_of(make_spec(secrets={"hf_token": {"airflow_connection": "hub"}}))


def test_an_image_that_was_not_built_is_named() -> None:
    with pytest.raises(AirsmithError, match="no image 'cpu'"):
        pods_of(make_spec(), SETTINGS.model_copy(update={"kubernetes": KubernetesSettings()}))
