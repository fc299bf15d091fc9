"""The table of instance types has what the backends need, and a source for every price."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from airsmith.backends import get_backend
from airsmith.backends.instances import InstanceTable, instance_table

TABLE = instance_table()


def test_every_price_has_a_date_and_a_source():
    for name, instance in TABLE.instances.items():
        listed = TABLE.price_list_of(name)
        assert (listed is None) == (instance.price is None)
        assert listed is None or (listed.date and listed.source.startswith("https://"))


@pytest.mark.parametrize("backend", ["cuda", "rocm", "neuron_xla", "neuron_native"])
def test_the_table_has_devices_with_the_resource_and_taint_of_each_backend(backend: str):
    resource = get_backend(backend).device_resource
    devices = [device for device in TABLE.devices.values() if device.resource == resource]
    assert devices
    assert all(device.taint == resource for device in devices), "pods tolerate a taint with the name of their resource"


def test_fitting_types_are_sorted_by_price_and_unpriced_ones_come_last():
    fitting = TABLE.fitting("nvidia.com/gpu", devices=1, cpu=6, memory_gib=64)
    assert fitting[0] == "g6.8xlarge"
    assert "g6.xlarge" not in fitting
    assert TABLE.fitting("amd.com/gpu", 8, 6, 64) == ["Standard_ND96isr_MI300X_v5"]
    assert TABLE.fitting(None, 0, 1, 4) == ["m7i.xlarge", "m7i.4xlarge", "m7i.12xlarge"]
    assert TABLE.fitting("nvidia.com/gpu", 64, 1, 1) == []


@pytest.mark.parametrize(
    ("name", "devices", "cores", "logical", "host_gib", "device_gib", "efa"),
    [
        ("trn1.2xlarge", 1, 2, 2, 32, 32, 0),
        ("trn1.32xlarge", 16, 2, 2, 512, 32, 8),
        ("trn1n.32xlarge", 16, 2, 2, 512, 32, 16),
        ("trn2.3xlarge", 1, 8, 4, 128, 96, 0),
        ("trn2.48xlarge", 16, 8, 4, 2048, 96, 16),
    ],
)
def test_trainium_types_have_their_published_sizes(
    name: str, devices: int, cores: int, logical: int, host_gib: int, device_gib: int, efa: int
):
    instance, device = TABLE.instances[name], TABLE.device_of(name)
    assert device is not None
    assert (instance.devices, instance.memory_gib, instance.efa) == (devices, host_gib, efa)
    assert (device.cores, device.logical_cores, device.memory_gib) == (cores, logical, device_gib)
    assert all(found and found.startswith("https://") for found in (instance.source, device.source))


def test_an_instance_type_has_the_labels_that_karpenter_sets():
    assert TABLE.node_labels("trn1.32xlarge") == {
        "node.kubernetes.io/instance-type": "trn1.32xlarge",
        "karpenter.k8s.aws/instance-family": "trn1",
        "karpenter.k8s.aws/instance-category": "trn",
        "karpenter.k8s.aws/instance-accelerator-manufacturer": "aws",
        "karpenter.k8s.aws/instance-accelerator-name": "trainium",
    }


@pytest.mark.parametrize(
    "instance",
    [
        {"cpu": 1, "memory_gib": 1, "device": "h100"},
        {"cpu": 1, "memory_gib": 1, "device": "abacus", "devices": 1},
        {"cpu": 1, "memory_gib": 1, "price": {"list": "hearsay", "usd_per_hour": 1}},
    ],
)
def test_an_entry_with_an_incomplete_or_unknown_reference_is_refused(instance: dict[str, object]):
    table = TABLE.model_dump()
    with pytest.raises(ValidationError):
        InstanceTable.model_validate({**table, "instances": {"x1.large": instance}})
