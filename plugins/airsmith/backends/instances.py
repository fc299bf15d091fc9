"""The table of `instances.yaml`: instance types, their devices, what marks their nodes, and what they cost."""

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
    """Where and when prices were read."""

    description: str
    date: date
    source: str


class Price(_Entry):
    """What an hour of a whole node costs, by one of the price lists."""

    list: str
    usd_per_hour: float = Field(gt=0)


class Device(_Entry):
    """An accelerator, as Kubernetes and Karpenter see it.

    :ivar resource: what pods ask for.
    :ivar memory_gib: memory of one device.
    :ivar cores: that have a process each, where a device has several.
    :ivar cores_per_logical: how many of them the driver shows as one.
    :ivar tensor_parallel_size: most logical cores that share every layer, where a recipe does not say.
    :ivar source: where its cores were read.
    :ivar labels: what Karpenter knows such nodes by.
    :ivar taint: key of the taint that such nodes commonly have.
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
        """Cores as the driver shows them: each runs a process."""
        return self.cores // self.cores_per_logical


class Instance(_Entry):
    """An instance type.

    :ivar device: name of its device; None for plain CPUs.
    :ivar devices: how many it has.
    :ivar parts: how many of them a pod may have; any number when empty.
    :ivar efa: network interfaces by which devices of several nodes talk, as pods ask for them.
    :ivar price: None where it is not known for sure.
    :ivar source: where its sizes were read.
    """

    cpu: int
    memory_gib: float
    device: str | None = None
    devices: int = Field(0, ge=0)
    parts: tuple[int, ...] = ()
    efa: int = Field(0, ge=0)
    price: Price | None = None
    source: str | None = None


class InstanceTable(_Entry):
    """All of `instances.yaml`."""

    price_lists: dict[str, PriceList]
    devices: dict[str, Device]
    instances: dict[str, Instance]

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Self:
        for name, instance in self.instances.items():
            if instance.device is not None and instance.device not in self.devices:
                raise ValueError(f"{name} has the device {instance.device!r}, which is not in the table")
            if instance.price is not None and instance.price.list not in self.price_lists:
                raise ValueError(f"{name} has a price of {instance.price.list!r}, which is no price list of the table")
            if (instance.device is None) != (instance.devices == 0):
                raise ValueError(f"{name} names a device without saying how many, or the other way round")
        return self

    def device_of(self, name: str) -> Device | None:
        """The device of an instance type; None where it has none or is not in the table."""
        instance = self.instances.get(name)
        return None if instance is None or instance.device is None else self.devices[instance.device]

    @cached_property
    def device_resources(self) -> frozenset[str]:
        """What pods ask for when they ask for a device."""
        return frozenset(device.resource for device in self.devices.values())

    def labels_of(self, name: str) -> dict[str, str]:
        """What marks the nodes of an instance type: its own names, and Karpenter's words for its device."""
        family = name.partition(".")[0]
        names = {INSTANCE_TYPE_LABEL: name, FAMILY_LABEL: family}
        category = re.match("[a-z]+", family)
        if category is not None:
            names[_CATEGORY_LABEL] = category.group()
        device = self.device_of(name)
        return {**names, **(device.labels if device else {})}

    def fitting(self, resource: str | None, devices: int, cpu: float, memory_gib: float) -> list[str]:
        """The instance types with room for such a pod beside the node's own processes, the lowest known price first.

        :param resource: what the pod asks the cluster for; None for plain CPUs.
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
        """Where the price of an instance type was read; None where it has none."""
        instance = self.instances.get(name)
        return None if instance is None or instance.price is None else self.price_lists[instance.price.list]

    def _resource_of(self, name: str) -> str | None:
        device = self.device_of(name)
        return device.resource if device else None


@lru_cache(maxsize=1)
def instance_table() -> InstanceTable:
    """The table that Airsmith ships."""
    return InstanceTable.model_validate(yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8")))
