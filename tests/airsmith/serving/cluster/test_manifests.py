"""The manifests of an endpoint, for every kind of server.

AIRSMITH_TEST_GOLDEN=write updates the golden files after an intended change.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from airsmith.serving.cluster.manifests import (
    OPTIONAL_KINDS,
    autoscaler,
    configuration_digest,
    deployment,
    protection,
    revision_service,
    route,
    service,
    service_name,
    service_url,
)
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.settings import Settings
from tests.support.endpoints import ADAPTERS, served_model
from tests.support.settings import cluster_settings

GOLDEN = Path(__file__).parent / "golden"
ALL_OPTIONAL_KINDS = frozenset(OPTIONAL_KINDS)
ENDPOINTS: dict[str, tuple[ServedModel, Settings]] = {
    "cpu": (served_model(serve={"name": "triage", "max_replicas": 3}), cluster_settings()),
    "cuda": (
        served_model(
            backend={"name": "cuda", "devices": 4},
            serve={
                "name": "triage", "load": "stream", "replicas": 2, "max_replicas": 8,
                "engine_args": {"max-model-len": 4096, "enable_prefix_caching": True},
            },
        ),
        cluster_settings(
            gateway="gateway-system/gateway",
            prometheus="http://prometheus.monitoring:9090",
            monitor_labels={"release": "prometheus"},
            api_key_secret="endpoints",
        ),
    ),
    "rocm": (
        served_model(
            adapters=ADAPTERS,
            backend={"name": "rocm"},
            serve={"name": "triage", "mode": "adapter"},
            secrets={"api_key": {"kubernetes_secret": "triage/key"}},
        ),
        cluster_settings(
            backends={"rocm": {"node_selector": {"pool": "amd"}, "tolerations": [{"key": "dedicated"}]}}
        ),
    ),
    "trn2.48xlarge": (
        served_model(
            backend={"name": "neuron_native", "instance_type": "trn2.48xlarge", "devices": 16},
            serve={"name": "triage", "engine_args": {"max-model-len": 8192}},
        ),
        cluster_settings(
            backends={"neuron_native": {"node_selector": {"pool": "trainium"}, "tolerations": [{"key": "dedicated"}]}}
        ),
    ),
    "trn2.3xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn2.3xlarge"},
            serve={"name": "triage", "engine": "vllm_neuron"},
        ),
        cluster_settings(),
    ),
    "trn1.32xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "devices": 4, "engine_args": {"max_num_seqs": 4}},
        ),
        cluster_settings(),
    ),
    "inf2.24xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "instance_type": "inf2.24xlarge", "devices": 6, "replicas": 2},
        ),
        cluster_settings(),
    ),
    "trn1.32xlarge-by-cpu": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "engine": "vllm"},
        ),
        cluster_settings(backends={"neuron_xla": {"node_selector": {"pool": "trainium"}}}),
    ),
}  # fmt: skip


def manifests_of(model: ServedModel, settings: Settings) -> list[dict[str, Any]]:
    """All manifests of an endpoint on a cluster that supports every kind."""
    scaler = autoscaler(model, settings, ALL_OPTIONAL_KINDS)
    found = [
        deployment(model, settings, autoscaled=scaler is not None),
        *([scaler] if scaler else []),
        service(model.endpoint, model.revision, settings),
        *protection(model.endpoint, settings, ALL_OPTIONAL_KINDS),
    ]
    if settings.kubernetes.gateway is not None:
        found += [revision_service(model, settings), route(model.endpoint, {model.object_name: 100}, settings)]
    return found


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_the_manifests_match_the_golden_file(name: str):
    manifests = manifests_of(*ENDPOINTS[name])
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        file.write_text(yaml.safe_dump_all(manifests, sort_keys=True), encoding="utf-8")
    assert list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) == manifests


def test_only_kinds_that_the_cluster_supports_are_rendered():
    settings = cluster_settings()
    assert protection("triage", settings, ()) == []
    assert [found["kind"] for found in protection("triage", settings, {"PodDisruptionBudget"})] == [
        "PodDisruptionBudget"
    ]
    assert autoscaler(served_model(serve={"max_replicas": 2}), settings, ()) is None


@pytest.mark.parametrize("serve", [{}, {"max_replicas": 1}, {"replicas": 2, "max_replicas": 2}])
def test_a_fixed_number_of_replicas_has_no_autoscaler(serve: dict[str, int]):
    assert autoscaler(served_model(serve=serve), cluster_settings(prometheus="http://p"), ALL_OPTIONAL_KINDS) is None


@pytest.mark.parametrize(
    ("backend", "kinds", "prometheus", "kind"),
    [
        ("cpu", {"ScaledObject", "HorizontalPodAutoscaler", "PodMetrics"}, "http://p", "ScaledObject"),
        ("cpu", {"ScaledObject", "HorizontalPodAutoscaler", "PodMetrics"}, None, "HorizontalPodAutoscaler"),
        ("cpu", {"HorizontalPodAutoscaler"}, "http://p", None),
        ("cuda", {"HorizontalPodAutoscaler", "PodMetrics"}, "http://p", None),
        ("cuda", {"ScaledObject"}, "http://p", "ScaledObject"),
    ],
)
def test_the_autoscaler_kind_follows_from_the_metrics_of_the_cluster(
    backend: str, kinds: set[str], prometheus: str | None, kind: str | None
):
    model = served_model(backend={"name": backend}, serve={"max_replicas": 4})
    found = autoscaler(model, cluster_settings(prometheus=prometheus), kinds)
    assert (found["kind"] if found else None) == kind


def test_a_deployment_with_an_autoscaler_has_no_replicas():
    model, settings = served_model(serve={"replicas": 2, "max_replicas": 4}), cluster_settings()
    assert deployment(model, settings)["spec"]["replicas"] == 2
    assert "replicas" not in deployment(model, settings, autoscaled=True)["spec"]


def test_the_service_selects_one_revision_or_all():
    model, settings = served_model(), cluster_settings()
    labels = deployment(model, settings)["spec"]["template"]["metadata"]["labels"]
    one = service(model.endpoint, model.revision, settings)["spec"]["selector"]
    shared = service(model.endpoint, None, settings)["spec"]["selector"]
    assert one.items() <= labels.items()
    assert shared.items() < one.items()


def test_the_configuration_digest_changes_with_the_served_configuration():
    settings = cluster_settings()
    same = configuration_digest(served_model(), settings)
    assert same == configuration_digest(served_model(), settings)
    for other in (
        served_model(serve={"replicas": 2}),
        served_model(serve={"engine_args": {"max-model-len": 8}}),
        served_model(serve={"load": "stream"}),
        served_model(secrets={"api_key": {"kubernetes_secret": "a/b"}}),
    ):
        assert configuration_digest(other, settings) != same
    assert configuration_digest(served_model(), cluster_settings(api_key_secret="endpoints")) != same


def test_long_names_are_shortened_and_stay_unique():
    names = [f"{'long-' * 12}{end}"[:63] for end in ("a", "b")]
    assert len({service_name(name) for name in names}) == len(set(names))
    assert all(len(service_url(service_name(name), "ns").split("//")[1].split(".")[0]) <= 63 for name in names)
