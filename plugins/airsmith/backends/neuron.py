"""AWS Neuron devices: what both backends on them have in common. Not run on a device.

A device has several cores, each with a process of its own; how many, and what a node has beside them, stands in
`instances.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass

from airsmith.backends.base import Backend, Placement, PodSize
from airsmith.backends.instances import Device, Instance, instance_table
from airsmith.contracts.spec import ParallelPlan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import Check, check_all
from airsmith.recipe import Recipe

NEURON = "aws.amazon.com/neuron"
EFA = "vpc.amazonaws.com/efa"
SCHEDULER = "neuron-scheduler"
"""AWS's scheduler, from which pods with a part of a node get neighbouring devices, as docs/neuron.md has it installed:
its Helm chart's own name for it is `my-scheduler`."""

_HUGE_PAGES = {"hugepages-2Mi": "5120Mi"}
"""What EFA's library sends from, as AWS's own manifests ask for it; nodes with EFA keep 5128 such pages ready.
https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html"""
_EFA_ENVIRONMENT = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}
"""https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/torch-neuronx/setup-trn1-multi-node-execution.html"""
COMPILERS_FOLDERS = ("/tmp", "/var/tmp")
"""Where compilers work, and keep a cache that nobody named, whatever TMPDIR says; an image's own are read-only."""

_CPU_SHARE, _MEMORY_SHARE, _SHARED_SHARE = 15 / 16, 0.85, 1 / 8
"""Of a node's CPUs and memory what pods may have, for the rest is the system's; of a pod's memory `/dev/shm`."""


@dataclass(frozen=True)
class NeuronBackend(Backend):
    """A backend on Neuron devices.

    :param accelerators: names of the devices that it trains on, in the table.
    """

    accelerators: tuple[str, ...] = ()

    def parallel(self, recipe: Recipe) -> ParallelPlan:
        """A process on each logical core, and the whole model on each process."""
        return ParallelPlan(processes_per_node=self.cores_per_node(recipe))

    def training_size(self, recipe: Recipe) -> PodSize:
        """The share of the node that the devices are of it."""
        return share_of_node(self.instance_of(recipe), recipe.backend.devices)

    def placement(self, recipe: Recipe) -> Placement:
        """EFA with a whole node, what it needs where it has something to carry; neighbours with a part of one."""
        instance = self.instance_of(recipe)
        is_whole = recipe.backend.devices == instance.devices
        efa = {EFA: str(instance.efa)} if is_whole and instance.efa else {}
        if recipe.backend.nodes > 1:
            return Placement({**efa, **_HUGE_PAGES}, _EFA_ENVIRONMENT, temporary=COMPILERS_FOLDERS)
        scheduler = None if is_whole or recipe.backend.devices == 1 else SCHEDULER
        return Placement(efa, scheduler=scheduler, temporary=COMPILERS_FOLDERS)

    def check(self, recipe: Recipe) -> None:
        """Refuse what these devices, and these nodes, cannot run; everything at once."""
        check_all([lambda: super(NeuronBackend, self).check(recipe), *self.checks(recipe)])

    def checks(self, recipe: Recipe) -> list[Check]:
        """What is asked of a recipe beside its method and precision."""
        return [
            lambda: self._check_devices(recipe),
            lambda: self._check_nodes(recipe),
            lambda: _check_engine(recipe),
        ]

    def cores_per_node(self, recipe: Recipe) -> int:
        """Logical cores of the recipe's devices of one node."""
        return recipe.backend.devices * self.device_of(recipe).logical_cores

    def device_of(self, recipe: Recipe) -> Device:
        """The recipe's device.

        :raises AirsmithError: `bad_recipe` where its instance type is none with such a device.
        """
        name = self.instance_of(recipe).device
        assert name is not None
        return instance_table().devices[name]

    def instance_of(self, recipe: Recipe) -> Instance:
        """The row of the recipe's instance type.

        :raises AirsmithError: `bad_recipe` where it names none with a device that this backend trains on.
        """
        name = recipe.backend.instance_type
        instance = self._instances().get(name or "")
        if instance is not None:
            return instance
        what = "is empty" if name is None else f"is {name!r}, of which the table of instances knows no fitting device"
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.instance_type {what}: a device's cores, and a pod's share of its node, follow from it.",
            f"Use one of {', '.join(self._instances())}.",
        )

    def _instances(self) -> dict[str, Instance]:
        """The rows of the table with devices of this backend."""
        rows = instance_table().instances.items()
        return {name: instance for name, instance in rows if instance.device in self.accelerators}

    def _check_devices(self, recipe: Recipe) -> None:
        wanted, instance, name = recipe.backend.devices, self.instance_of(recipe), recipe.backend.instance_type
        if wanted > instance.devices:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.devices is {wanted}, but {name} has {instance.devices}.",
                f"Use {instance.devices}{', or more backend.nodes' if instance.efa else ''}.",
            )
        if instance.parts and wanted not in instance.parts:
            nearest = [max(part for part in instance.parts if part < wanted)]
            nearest.append(min(part for part in instance.parts if part > wanted))
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.devices is {wanted}, but of {name} a pod gets {_listed(instance.parts)} devices: only those "
                "are connected with each other, and its scheduler takes no other number.",
                f"Use {nearest[0]} or {nearest[1]}.",
            )

    def _check_nodes(self, recipe: Recipe) -> None:
        instance, name = self.instance_of(recipe), recipe.backend.instance_type
        if recipe.backend.nodes == 1:
            return
        if not instance.efa:
            large = [each for each, row in self._instances().items() if row.efa]
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.nodes is {recipe.backend.nodes}, but devices of several {name} do not talk with each other: "
                "the type has no EFA.",
                f"Set backend.nodes to 1, or use {' or '.join(large)}.",
            )
        if recipe.backend.devices < instance.devices:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.devices is {recipe.backend.devices} of the {instance.devices} of {name}, but several nodes "
                "train together as whole nodes, with all their interfaces of EFA.",
                f"Set backend.devices to {instance.devices}, or backend.nodes to 1.",
            )


def share_of_node(instance: Instance, devices: int) -> PodSize:
    """What a pod with so many devices of a node asks for beside them."""
    share = devices / instance.devices
    memory = int(instance.memory_gib * _MEMORY_SHARE * share)
    return PodSize(
        cpu=str(max(1, int(instance.cpu * _CPU_SHARE * share))),
        memory=f"{memory}Gi",
        shared_memory=f"{max(1, int(memory * _SHARED_SHARE))}Gi",
    )


def _check_engine(recipe: Recipe) -> None:
    if recipe.backend.nodes > 1 and recipe.backend.job == "rayjob":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "backend.job is 'rayjob', but no image for Neuron holds Ray beside its libraries.",
            "Set backend.job to 'jobset' or 'trainjob'.",
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(str(number) for number in numbers[:-1])} or all {numbers[-1]}"
