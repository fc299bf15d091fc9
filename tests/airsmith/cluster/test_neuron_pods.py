"""Pods on Neuron: a share of the node, what several nodes talk by, and neighbours where a node is shared."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity
from test_pods import BACKENDS, SETTINGS, make_spec, pods_of

from airsmith.backends.instances import instance_table
from airsmith.settings import Settings

NEURON, EFA, HUGE = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa", "hugepages-2Mi"
TRAINIUM = sorted(name for name in BACKENDS if name.startswith("trn"))
XLA = [name for name in TRAINIUM if BACKENDS[name]["name"] == "neuron_xla"]


def pod(backend: dict[str, Any], stage: str = "train", settings: Settings = SETTINGS) -> dict[str, Any]:
    return pods_of(make_spec(backend=backend), settings)[stage]["spec"]


def resources(spec: dict[str, Any]) -> dict[str, str]:
    """What the pod asks for; of all but CPU and disk as much is its limit."""
    found = spec["containers"][0]["resources"]
    assert found["limits"] == {
        name: amount for name, amount in found["requests"].items() if name not in ("cpu", "ephemeral-storage")
    }
    return found["requests"]


def variables(spec: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize("name", TRAINIUM)
def test_a_pod_leaves_the_node_something(name: str) -> None:
    backend = BACKENDS[name]
    instance = instance_table().instances[backend["instance_type"]]
    wanted = resources(pod(backend))
    share = int(wanted[NEURON]) / instance.devices
    cpu, gib = float(parse_quantity(wanted["cpu"])), float(parse_quantity(wanted["memory"])) / 1024**3
    assert 0.8 * share * instance.cpu <= cpu < share * instance.cpu
    assert 0.8 * share * instance.memory_gib <= gib < 0.9 * share * instance.memory_gib


@pytest.mark.parametrize("name", XLA)
def test_what_is_compiled_is_compiled_where_it_is_trained(name: str) -> None:
    compiling, training = (pods_of(make_spec(backend=BACKENDS[name]))[stage]["spec"] for stage in ("compile", "train"))
    for each in (compiling, training):
        each["containers"][0]["args"] = []
    assert compiling == training


@pytest.mark.parametrize(
    ("backend", "efa", "pages"),
    [
        ({"instance_type": "trn1.2xlarge"}, None, None),
        ({"instance_type": "trn1.32xlarge", "devices": 4}, None, None),
        ({"instance_type": "trn1.32xlarge", "devices": 16}, "8", None),
        ({"instance_type": "trn1.32xlarge", "devices": 16, "nodes": 2}, "8", "5120Mi"),
        ({"instance_type": "trn1n.32xlarge", "devices": 16, "nodes": 4}, "16", "5120Mi"),
        ({"instance_type": "trn2.48xlarge", "devices": 16, "nodes": 2}, "16", "5120Mi"),
    ],
)
def test_a_whole_node_has_all_of_its_efa_and_several_talk_by_it(
    backend: dict[str, Any], efa: str | None, pages: str | None
) -> None:
    spec = pod({"name": "neuron_xla", **backend})
    assert resources(spec).get(EFA) == efa
    assert resources(spec).get(HUGE) == pages
    assert variables(spec).get("FI_PROVIDER") == ("efa" if pages else None)
    assert variables(spec).get("FI_EFA_USE_DEVICE_RDMA") == ("1" if pages else None)


def test_the_settings_variables_win_over_those_of_the_devices() -> None:
    kubernetes = SETTINGS.kubernetes.model_copy(update={"environment": {"FI_EFA_FORK_SAFE": "0"}})
    spec = pod(BACKENDS["trn1n.32xlarge-nodes"], settings=SETTINGS.model_copy(update={"kubernetes": kubernetes}))
    assert variables(spec)["FI_EFA_FORK_SAFE"] == "0"


@pytest.mark.parametrize(
    ("devices", "scheduler"), [(1, None), (4, "neuron-scheduler"), (8, "neuron-scheduler"), (16, None)]
)
def test_a_part_of_a_node_is_given_neighbours(devices: int, scheduler: str | None) -> None:
    pods = pods_of(make_spec(backend={"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": devices}))
    for stage, rendered in pods.items():
        placed = rendered["spec"].get("schedulerName")
        assert placed == (scheduler if stage in ("compile", "train") else None), stage


def test_nodes_are_chosen_by_their_type_and_may_keep_others_away() -> None:
    spec = pod(BACKENDS["trn1.32xlarge"])
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    assert spec["tolerations"] == [{"key": NEURON, "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize("name", TRAINIUM)
def test_a_compiler_may_write_where_it_does(name: str) -> None:
    spec = pod(BACKENDS[name])
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/tmp"] == mounts["/var/tmp"] == "temporary"
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts.values())


def test_the_recipe_may_lower_what_a_pod_asks_for() -> None:
    lowered = {"cpu": "500m", "memory": "3Gi", "shared_memory": "64Mi", "ephemeral_storage": "1Gi"}
    for stage in ("compile", "train"):
        spec = pod({**BACKENDS["trn1.32xlarge"], "resources": lowered}, stage)
        asked = resources(spec)
        assert (asked["cpu"], asked["memory"], asked["ephemeral-storage"]) == ("500m", "3Gi", "1Gi")
        assert (asked[NEURON], asked[EFA]) == ("16", "8")
        (shared,) = [volume for volume in spec["volumes"] if volume["name"] == "shm"]
        assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


@pytest.mark.parametrize("name", XLA)
def test_consolidating_merging_and_judging_need_no_device(name: str) -> None:
    for stage, rendered in pods_of(make_spec(backend=BACKENDS[name])).items():
        if stage in ("tokenize", "consolidate", "merge", "evaluate", "register"):
            assert not [each for each in resources(rendered["spec"]) if "/" in each], stage
            assert "nodeSelector" not in rendered["spec"] or not rendered["spec"]["nodeSelector"], stage
            assert "neuron" not in rendered["spec"]["containers"][0]["image"], stage


def test_an_evaluation_is_as_large_as_the_recipe_says() -> None:
    spec = make_spec(
        backend=BACKENDS["trn1.32xlarge"], evaluate={"resources": {"memory": "48Gi", "ephemeral_storage": "80Gi"}}
    )
    asked = resources(pods_of(spec)["evaluate"]["spec"])
    assert (asked["cpu"], asked["memory"], asked["ephemeral-storage"]) == ("1", "48Gi", "80Gi")
