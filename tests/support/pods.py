"""The pods of stages, for every backend."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.settings import Settings
from tests.support.recipes import new_recipe
from tests.support.runs import new_spec
from tests.support.settings import cluster_settings

DIGEST = "0123456789abcdef" * 4
RUN = Run(Store.open("s3://bucket/prefix"), "runs/dag/run-0badcafe")
SETTINGS = cluster_settings(environment={"AWS_ENDPOINT_URL": "http://minio.storage:9000"}, hub_secret="hub")
BACKENDS: dict[str, dict[str, Any]] = {
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
"""The `backend` section of a recipe, by the name of its golden file."""


def cluster_spec(**sections: Any) -> RunSpec:
    """The spec of a run whose pods are rendered.

    :param sections: replace the recipe's sections of the same name.
    """
    recipe = new_recipe(**{"name": "ticket-triage", "training": {"total_train_batch_size": 64}, **sections})
    return new_spec(
        recipe, run_id="manual", dag_id="finetune_ticket_triage", recipe_digest="", airsmith_version="1.0",
        bundle_version="c0ffee", created_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip


def stage_pods(spec: RunSpec, settings: Settings = SETTINGS) -> dict[str, dict[str, Any]]:
    """The pods of a run as the API server receives them, by stage."""
    client = ApiClient()
    stages = [plan.stage for plan in spec.plan.stages if not plan.runs_in_worker]
    return {stage: client.sanitize_for_serialization(stage_pod(stage, RUN, spec, DIGEST, settings)) for stage in stages}
