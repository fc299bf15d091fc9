"""Pods on Neuron: their share of a node, EFA across nodes, and adjacent devices on a shared node."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity

from airsmith.backends.instances import instance_table
from airsmith.settings import Settings
from tests.support.pods import BACKENDS, SETTINGS, cluster_spec, stage_pods

NEURON, EFA, HUGE = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa", "hugepages-2Mi"
TRAINIUM = sorted(name for name in BACKENDS if name.startswith("trn"))
XLA = [name for name in TRAINIUM if BACKENDS[name]["name"] == "neuron_xla"]


def pod_spec_of(backend: dict[str, Any], stage: str = "train", settings: Settings = SETTINGS) -> dict[str, Any]:
    return stage_pods(cluster_spec(backend=backend), settings)[stage]["spec"]


def resources(spec: dict[str, Any]) -> dict[str, str]:
    """The requests of the pod, which are also its limits except for CPU and disk."""
    resources_of_pod = spec["containers"][0]["resources"]
    assert resources_of_pod["limits"] == {
        name: amount
        for name, amount in resources_of_pod["requests"].items()
        if name not in ("cpu", "ephemeral-storage")
    }
    return resources_of_pod["requests"]


def variables(spec: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize("name", TRAINIUM)
def test_a_pod_requests_less_than_its_share_of_the_node(name: str) -> None:
    backend = BACKENDS[name]
    instance = instance_table().instances[backend["instance_type"]]
    requests = resources(pod_spec_of(backend))
    share = int(requests[NEURON]) / instance.devices
    cpu, gib = float(parse_quantity(requests["cpu"])), float(parse_quantity(requests["memory"])) / 1024**3
    assert 0.8 * share * instance.cpu <= cpu < share * instance.cpu
    assert 0.8 * share * instance.memory_gib <= gib < 0.9 * share * instance.memory_gib


@pytest.mark.parametrize("name", XLA)
def test_compile_and_train_have_the_same_pod(name: str) -> None:
    compiling, training = (
        stage_pods(cluster_spec(backend=BACKENDS[name]))[stage]["spec"] for stage in ("compile", "train")
    )
    for each in (compiling, training):
        each["containers"][0]["args"] = []
    assert compiling == training


@pytest.mark.parametrize(
    ("backend", "efa", "huge_pages"),
    [
        ({"instance_type": "trn1.2xlarge"}, None, None),
        ({"instance_type": "trn1.32xlarge", "devices": 4}, None, None),
        ({"instance_type": "trn1.32xlarge", "devices": 16}, "8", None),
        ({"instance_type": "trn1.32xlarge", "devices": 16, "nodes": 2}, "8", "5120Mi"),
        ({"instance_type": "trn1n.32xlarge", "devices": 16, "nodes": 4}, "16", "5120Mi"),
        ({"instance_type": "trn2.48xlarge", "devices": 16, "nodes": 2}, "16", "5120Mi"),
    ],
)
def test_a_full_node_has_all_efa_interfaces_and_several_nodes_use_them(
    backend: dict[str, Any], efa: str | None, huge_pages: str | None
) -> None:
    spec = pod_spec_of({"name": "neuron_xla", **backend})
    assert resources(spec).get(EFA) == efa
    assert resources(spec).get(HUGE) == huge_pages
    assert variables(spec).get("FI_PROVIDER") == ("efa" if huge_pages else None)
    assert variables(spec).get("FI_EFA_USE_DEVICE_RDMA") == ("1" if huge_pages else None)


def test_variables_of_the_settings_win_over_those_of_the_backend() -> None:
    kubernetes = SETTINGS.kubernetes.model_copy(update={"environment": {"FI_EFA_FORK_SAFE": "0"}})
    spec = pod_spec_of(
        BACKENDS["trn1n.32xlarge-nodes"], settings=SETTINGS.model_copy(update={"kubernetes": kubernetes})
    )
    assert variables(spec)["FI_EFA_FORK_SAFE"] == "0"


@pytest.mark.parametrize(
    ("devices", "scheduler"), [(1, None), (4, "neuron-scheduler"), (8, "neuron-scheduler"), (16, None)]
)
def test_part_of_a_node_is_scheduled_by_the_neuron_scheduler(devices: int, scheduler: str | None) -> None:
    pods = stage_pods(
        cluster_spec(backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": devices})
    )
    for stage, rendered in pods.items():
        placed = rendered["spec"].get("schedulerName")
        assert placed == (scheduler if stage in ("compile", "train") else None), stage


def test_a_pod_selects_its_instance_type_and_tolerates_the_device_taint() -> None:
    spec = pod_spec_of(BACKENDS["trn1.32xlarge"])
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    assert spec["tolerations"] == [{"key": NEURON, "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize("name", TRAINIUM)
def test_temporary_folders_are_writable(name: str) -> None:
    spec = pod_spec_of(BACKENDS[name])
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/tmp"] == mounts["/var/tmp"] == "temporary"
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts.values())


def test_the_recipe_can_lower_the_requests() -> None:
    smaller = {"cpu": "500m", "memory": "3Gi", "shared_memory": "64Mi", "ephemeral_storage": "1Gi"}
    for stage in ("compile", "train"):
        spec = pod_spec_of({**BACKENDS["trn1.32xlarge"], "resources": smaller}, stage)
        requests = resources(spec)
        assert (requests["cpu"], requests["memory"], requests["ephemeral-storage"]) == ("500m", "3Gi", "1Gi")
        assert (requests[NEURON], requests[EFA]) == ("16", "8")
        (shared,) = [volume for volume in spec["volumes"] if volume["name"] == "shm"]
        assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


@pytest.mark.parametrize("name", XLA)
def test_the_other_stages_request_no_device(name: str) -> None:
    for stage, rendered in stage_pods(cluster_spec(backend=BACKENDS[name])).items():
        if stage in ("tokenize", "consolidate", "merge", "evaluate", "register"):
            assert not [each for each in resources(rendered["spec"]) if "/" in each], stage
            assert "nodeSelector" not in rendered["spec"] or not rendered["spec"]["nodeSelector"], stage
            assert "neuron" not in rendered["spec"]["containers"][0]["image"], stage


def test_the_evaluation_has_the_resources_of_the_recipe() -> None:
    spec = cluster_spec(
        backend=BACKENDS["trn1.32xlarge"], evaluate={"resources": {"memory": "48Gi", "ephemeral_storage": "80Gi"}}
    )
    requests = resources(stage_pods(spec)["evaluate"]["spec"])
    assert (requests["cpu"], requests["memory"], requests["ephemeral-storage"]) == ("1", "48Gi", "80Gi")
