"""The parallel sizes on Neuron follow from the instance type, or from the recipe."""

from __future__ import annotations

from typing import Any

import pytest

from airsmith.contracts.spec import Plan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import make_plan
from tests.support.recipes import new_recipe


def plan_of(name: str = "neuron_xla", batch: int = 64, **backend: Any) -> Plan:
    return make_plan(new_recipe(training={"total_train_batch_size": batch}, backend={"name": name, **backend}))


@pytest.mark.parametrize(
    ("instance_type", "devices", "nodes", "tensor", "data", "processes"),
    [
        ("trn1.2xlarge", 1, 1, 2, 1, 2),
        ("trn1.32xlarge", 16, 1, 8, 4, 32),
        ("trn1.32xlarge", 1, 1, 2, 1, 2),
        ("trn1.32xlarge", 4, 1, 8, 1, 8),
        ("trn1.32xlarge", 16, 2, 8, 8, 32),
        ("trn1n.32xlarge", 16, 1, 8, 4, 32),
        ("trn2.3xlarge", 1, 1, 4, 1, 4),
        ("trn2.48xlarge", 16, 1, 4, 16, 64),
        ("trn2.48xlarge", 3, 1, 4, 3, 12),
    ],
)
def test_every_core_of_the_devices_has_a_process(
    instance_type: str, devices: int, nodes: int, tensor: int, data: int, processes: int
) -> None:
    plan = plan_of(batch=96, instance_type=instance_type, devices=devices, nodes=nodes)
    assert plan.parallel.model_dump() == {"tensor": tensor, "pipeline": 1, "processes_per_node": processes}
    assert plan.batch.data_parallel_size == data
    assert tensor * data == processes * nodes


@pytest.mark.parametrize(
    ("sizes", "tensor", "pipeline", "data"),
    [
        ({"tensor_parallel_size": 2}, 2, 1, 16),
        ({"tensor_parallel_size": 32}, 32, 1, 1),
        ({"pipeline_parallel_size": 2}, 8, 2, 2),
        ({"pipeline_parallel_size": 8}, 4, 8, 1),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 4}, 4, 4, 2),
    ],
)
def test_the_recipe_can_set_the_parallel_sizes(sizes: dict[str, int], tensor: int, pipeline: int, data: int) -> None:
    plan = plan_of(instance_type="trn1.32xlarge", devices=16, **sizes)
    assert (plan.parallel.tensor, plan.parallel.pipeline, plan.batch.data_parallel_size) == (tensor, pipeline, data)


def test_the_native_backend_shards_and_compiles_nothing() -> None:
    plan = plan_of("neuron_native", instance_type="trn2.48xlarge", devices=16)
    assert plan.parallel.model_dump() == {"tensor": 1, "pipeline": 1, "processes_per_node": 64}
    assert plan.batch.data_parallel_size == 64
    assert not plan.has("compile")
    assert plan.stage("train").image == "train-neuron-native"


def test_the_pipeline_compiles_trains_consolidates_and_evaluates_on_cpus() -> None:
    plan = plan_of(instance_type="trn2.3xlarge")
    assert plan.names()[2:8] == ["tokenize", "compile", "train", "consolidate", "merge", "evaluate"]
    assert {plan.stage(stage).image for stage in ("compile", "train")} == {"train-neuron-xla"}
    assert (plan.stage("evaluate").backend, plan.stage("evaluate").needs_accelerator) == ("cpu", False)


@pytest.mark.parametrize(
    ("backend", "message", "remedy"),
    [
        ({}, "instance_type is empty", "trn1.2xlarge, trn1.32xlarge, trn1n.32xlarge, trn2.3xlarge, trn2.48xlarge"),
        ({"instance_type": "p5.48xlarge"}, "'p5.48xlarge'", "trn1.2xlarge"),
        ({"instance_type": "inf2.xlarge"}, "'inf2.xlarge'", "trn1.2xlarge"),
        ({"name": "neuron_native", "instance_type": "trn1.32xlarge"}, "'trn1.32xlarge'", "trn2.3xlarge, trn2.48xlarge"),
        ({"instance_type": "trn1.2xlarge", "devices": 2}, "is 2, but trn1.2xlarge has 1", "Use 1."),
        ({"instance_type": "trn1.32xlarge", "devices": 17}, "has 16", "Use 16, or more backend.nodes"),
        ({"instance_type": "trn1.32xlarge", "devices": 7}, "1, 4, 8 or all 16", "Use 4 or 8"),
        ({"instance_type": "trn2.3xlarge", "nodes": 2}, "no EFA", "Set backend.nodes to 1"),
        ({"instance_type": "trn1.32xlarge", "devices": 8, "nodes": 2}, "8 of the 16", "Set backend.devices to 16"),
        ({"instance_type": "trn1.32xlarge", "devices": 16, "nodes": 2, "job": "rayjob"}, "rayjob", "jobset"),
        ({"instance_type": "trn1.32xlarge", "devices": 16, "tensor_parallel_size": 3}, "tensor_parallel_size 3", "two"),
        ({"instance_type": "trn1.32xlarge", "devices": 16, "pipeline_parallel_size": 5}, "size 5", "powers of two"),
        ({"instance_type": "trn1.2xlarge", "tensor_parallel_size": 4}, "tensor_parallel_size 4", "leave them empty"),
    ],
)
def test_unavailable_devices_are_refused_with_the_available_ones(
    backend: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(AirsmithError) as caught:
        plan_of(**backend)
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    assert message in caught.value.message
    assert remedy in caught.value.hint


def test_a_batch_must_divide_by_the_data_parallel_size() -> None:
    with pytest.raises(AirsmithError) as caught:
        plan_of(batch=30, instance_type="trn1.32xlarge", devices=16)
    assert "data-parallel size 4: 16 devices have 32 cores, of which 8 (tensor parallel 8" in caught.value.message
    assert caught.value.hint == "Use 28 or 32."
    with pytest.raises(AirsmithError, match="data-parallel size 64: 16 devices have 64 cores"):
        plan_of("neuron_native", batch=30, instance_type="trn2.48xlarge", devices=16)


@pytest.mark.parametrize("name", ["cpu", "cuda", "rocm"])
@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_other_backends_refuse_parallel_sizes(name: str, size: str) -> None:
    with pytest.raises(AirsmithError, match=rf"backend\.{size} is set"):
        plan_of(name, **{size: 2})
