"""The table in `instances.yaml`: instance types with their devices, node labels and prices."""

from __future__ import annotations

import math
import re
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

TABLE_FILE = Path(__file__).parent / "instances.yaml"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
FAMILY_LABEL = "karpenter.k8s.aws/instance-family"
_CATEGORY_LABEL = "karpenter.k8s.aws/instance-category"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceList(_Entry):
    """Source and date of prices."""

    description: str
    date: date
    source: str


class Price(_Entry):
    """Price of a whole node per hour, from one of the price lists."""

    list: str
    usd_per_hour: float = Field(gt=0)


class Device(_Entry):
    """An accelerator, as Kubernetes and Karpenter represent it.

    :ivar resource: extended resource that pods request.
    :ivar memory_gib: memory of a device.
    :ivar cores: physical cores of a device.
    :ivar cores_per_logical: physical cores that the driver presents as one logical core.
    :ivar tensor_parallel_size: default tensor parallel size, at most; counts logical cores.
    :ivar source: source of the number of cores.
    :ivar labels: labels that Karpenter sets on nodes with this device.
    :ivar taint: key of the taint that such nodes usually have.
    """

    resource: str
    memory_gib: float = Field(gt=0)
    cores: int = Field(1, ge=1)
    cores_per_logical: int = Field(1, ge=1)
    tensor_parallel_size: int = Field(1, ge=1)
    source: str | None = None
    labels: dict[str, str] = {}
    taint: str

    @property
    def logical_cores(self) -> int:
        """Cores as the driver presents them; each runs a process."""
        return self.cores // self.cores_per_logical


class Instance(_Entry):
    """An instance type.

    :ivar device: name of the device; None for CPUs.
    :ivar devices: number of devices.
    :ivar device_counts: numbers of devices that a pod may request; empty for any number.
    :ivar efa: number of EFA network interfaces, which connect the devices of several nodes.
    :ivar price: None if no reliable price is known.
    :ivar source: source of the sizes.
    """

    cpu: int
    memory_gib: float
    device: str | None = None
    devices: int = Field(0, ge=0)
    device_counts: tuple[int, ...] = ()
    efa: int = Field(0, ge=0)
    price: Price | None = None
    source: str | None = None


class InstanceTable(_Entry):
    """The content of `instances.yaml`."""

    price_lists: dict[str, PriceList]
    devices: dict[str, Device]
    instances: dict[str, Instance]

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for name, instance in self.instances.items():
            if instance.device is not None and instance.device not in self.devices:
                raise ValueError(f"{name} has the device {instance.device!r}, which is not in the table")
            if instance.price is not None and instance.price.list not in self.price_lists:
                raise ValueError(
                    f"{name} has a price of {instance.price.list!r}, which is not a price list of the table"
                )
            if (instance.device is None) != (instance.devices == 0):
                raise ValueError(f"{name} must set both device and devices, or neither")
        return self

    def device_of(self, name: str) -> Device | None:
        """The device of an instance type; None if the type has no device or is not in the table."""
        instance = self.instances.get(name)
        return None if instance is None or instance.device is None else self.devices[instance.device]

    @cached_property
    def device_resources(self) -> frozenset[str]:
        """Extended resources of all devices."""
        return frozenset(device.resource for device in self.devices.values())

    def node_labels(self, name: str) -> dict[str, str]:
        """Labels of nodes with an instance type: type, family, category and Karpenter's labels of the device."""
        family = name.partition(".")[0]
        labels = {INSTANCE_TYPE_LABEL: name, FAMILY_LABEL: family}
        category = re.match("[a-z]+", family)
        if category is not None:
            labels[_CATEGORY_LABEL] = category.group()
        device = self.device_of(name)
        return {**labels, **(device.labels if device else {})}

    def fitting(self, resource: str | None, devices: int, cpu: float, memory_gib: float) -> list[str]:
        """Instance types that fit a pod and the node's system processes, sorted by price; unknown prices come last.

        :param resource: extended resource that the pod requests; None for CPUs.
        """
        found = [
            (instance.price.usd_per_hour if instance.price else math.inf, name)
            for name, instance in self.instances.items()
            if self._resource_of(name) == resource
            and instance.devices >= devices
            and instance.cpu > cpu
            and instance.memory_gib > memory_gib
        ]
        return [name for _, name in sorted(found)]

    def price_list_of(self, name: str) -> PriceList | None:
        """Price list of an instance type; None if its price is unknown."""
        instance = self.instances.get(name)
        return None if instance is None or instance.price is None else self.price_lists[instance.price.list]

    def _resource_of(self, name: str) -> str | None:
        device = self.device_of(name)
        return device.resource if device else None


@lru_cache(maxsize=1)
def instance_table() -> InstanceTable:
    """The table that is part of Airsmith."""
    return InstanceTable.model_validate(yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8")))
