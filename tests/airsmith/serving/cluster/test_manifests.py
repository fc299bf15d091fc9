"""An endpoint's objects are the golden ones, by where it serves. After a wanted change: AIRSMITH_TEST_GOLDEN=write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from endpoints import ADAPTERS, served_model, settings_with

from airsmith.serving.cluster.manifests import (
    OPTIONAL_KINDS,
    address,
    autoscaler,
    backend_service,
    configuration_of,
    deployment,
    guards,
    route,
    service,
    service_name,
)
from airsmith.serving.cluster.served import ServedModel
from airsmith.settings import Settings

GOLDEN = Path(__file__).parent / "golden"
EVERYTHING = frozenset(OPTIONAL_KINDS)
ENDPOINTS: dict[str, tuple[ServedModel, Settings]] = {
    "cpu": (served_model(serve={"name": "triage", "max_replicas": 3}), settings_with()),
    "cuda": (
        served_model(
            backend={"name": "cuda", "devices": 4},
            serve={
                "name": "triage", "load": "stream", "replicas": 2, "max_replicas": 8,
                "engine_args": {"max-model-len": 4096, "enable_prefix_caching": True},
            },
        ),
        settings_with(
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
        settings_with(
            backends={"rocm": {"node_selector": {"pool": "amd"}, "tolerations": [{"key": "dedicated"}]}}
        ),
    ),
    "trn2.48xlarge": (
        served_model(
            backend={"name": "neuron_native", "instance_type": "trn2.48xlarge", "devices": 16},
            serve={"name": "triage", "engine_args": {"max-model-len": 8192}},
        ),
        settings_with(
            backends={"neuron_native": {"node_selector": {"pool": "trainium"}, "tolerations": [{"key": "dedicated"}]}}
        ),
    ),
    "trn2.3xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn2.3xlarge"},
            serve={"name": "triage", "engine": "vllm_neuron"},
        ),
        settings_with(),
    ),
    "trn1.32xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "devices": 4, "engine_args": {"max_num_seqs": 4}},
        ),
        settings_with(),
    ),
    "inf2.24xlarge": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "instance_type": "inf2.24xlarge", "devices": 6, "replicas": 2},
        ),
        settings_with(),
    ),
    "trn1.32xlarge-by-cpu": (
        served_model(
            backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16},
            serve={"name": "triage", "engine": "vllm"},
        ),
        settings_with(backends={"neuron_xla": {"node_selector": {"pool": "trainium"}}}),
    ),
}  # fmt: skip


def objects_of(model: ServedModel, settings: Settings) -> list[dict[str, Any]]:
    """All that an endpoint may be made of in a cluster that has every kind."""
    scaler = autoscaler(model, settings, EVERYTHING)
    found = [
        deployment(model, settings, scales_itself=scaler is not None),
        *([scaler] if scaler else []),
        service(model.endpoint, model.deployment, settings),
        *guards(model.endpoint, settings, EVERYTHING),
    ]
    if settings.kubernetes.gateway is not None:
        found += [backend_service(model, settings), route(model.endpoint, {model.object_name: 100}, settings)]
    return found


@pytest.mark.parametrize("place", sorted(ENDPOINTS))
def test_the_objects_of_an_endpoint_are_the_golden_ones(place: str):
    objects = objects_of(*ENDPOINTS[place])
    file = GOLDEN / f"{place}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        file.write_text(yaml.safe_dump_all(objects, sort_keys=True), encoding="utf-8")
    assert list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) == objects


def test_a_cluster_is_given_only_kinds_that_it_has():
    settings = settings_with()
    assert guards("triage", settings, ()) == []
    assert [found["kind"] for found in guards("triage", settings, {"PodDisruptionBudget"})] == ["PodDisruptionBudget"]
    assert autoscaler(served_model(serve={"max_replicas": 2}), settings, ()) is None


@pytest.mark.parametrize("serve", [{}, {"max_replicas": 1}, {"replicas": 2, "max_replicas": 2}])
def test_nothing_scales_what_shall_stay_as_it_is(serve: dict[str, int]):
    assert autoscaler(served_model(serve=serve), settings_with(prometheus="http://p"), EVERYTHING) is None


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
def test_servers_scale_by_what_the_cluster_can_see(
    backend: str, kinds: set[str], prometheus: str | None, kind: str | None
):
    model = served_model(backend={"name": backend}, serve={"max_replicas": 4})
    found = autoscaler(model, settings_with(prometheus=prometheus), kinds)
    assert (found["kind"] if found else None) == kind


def test_an_autoscaler_alone_decides_how_many_servers_there_are():
    model, settings = served_model(serve={"replicas": 2, "max_replicas": 4}), settings_with()
    assert deployment(model, settings)["spec"]["replicas"] == 2
    assert "replicas" not in deployment(model, settings, scales_itself=True)["spec"]


def test_the_service_reaches_one_start_of_a_server_or_all_that_share():
    model, settings = served_model(), settings_with()
    labels = deployment(model, settings)["spec"]["template"]["metadata"]["labels"]
    one = service(model.endpoint, model.deployment, settings)["spec"]["selector"]
    shared = service(model.endpoint, None, settings)["spec"]["selector"]
    assert one.items() <= labels.items()
    assert shared.items() < one.items()


def test_what_is_served_as_before_has_the_same_configuration():
    settings = settings_with()
    same = configuration_of(served_model(), settings)
    assert same == configuration_of(served_model(), settings)
    for other in (
        served_model(serve={"replicas": 2}),
        served_model(serve={"engine_args": {"max-model-len": 8}}),
        served_model(serve={"load": "stream"}),
        served_model(secrets={"api_key": {"kubernetes_secret": "a/b"}}),
    ):
        assert configuration_of(other, settings) != same
    assert configuration_of(served_model(), settings_with(api_key_secret="endpoints")) != same


def test_long_names_stay_valid_and_apart():
    names = [f"{'long-' * 12}{end}"[:63] for end in ("a", "b")]
    assert len({service_name(name) for name in names}) == len(set(names))
    assert all(len(address(name, "ns").split("//")[1].split(".")[0]) <= 63 for name in names)
