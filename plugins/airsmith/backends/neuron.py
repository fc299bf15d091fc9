"""Common base of the backends for AWS Neuron devices. Not run on a device.

A device has several cores, each with a separate process. `instances.yaml` contains the number of cores and the sizes
of the nodes.
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
"""AWS's scheduler, which assigns neighboring devices to pods that use a part of a node. This is its name if installed
as in docs/neuron.md; the Helm chart's default name is `my-scheduler`."""

_HUGE_PAGES = {"hugepages-2Mi": "5120Mi"}
"""Huge pages for the EFA library, as in AWS's manifests; nodes with EFA preallocate 5128 pages.
https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html"""
_EFA_ENVIRONMENT = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}
"""https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/torch-neuronx/setup-trn1-multi-node-execution.html"""
COMPILERS_FOLDERS = ("/tmp", "/var/tmp")
"""Folders that compilers use for work files and for the default cache, regardless of TMPDIR; those of the image are
read-only."""

_CPU_SHARE, _MEMORY_SHARE, _SHARED_SHARE = 15 / 16, 0.85, 1 / 8
"""Shares of a node's CPUs and memory for pods (the rest is for the system), and share of a pod's memory for
`/dev/shm`."""


@dataclass(frozen=True)
class NeuronBackend(Backend):
    """A backend for Neuron devices.

    :param accelerators: names of the supported devices in the table of instances.
    """

    accelerators: tuple[str, ...] = ()

    def parallel(self, recipe: Recipe) -> ParallelPlan:
        """One process per logical core, each with the whole model."""
        return ParallelPlan(processes_per_node=self.cores_per_node(recipe))

    def training_size(self, recipe: Recipe) -> PodSize:
        """A share of the node, proportional to the devices."""
        return share_of_node(self.instance_of(recipe), recipe.backend.devices)

    def placement(self, recipe: Recipe) -> Placement:
        """EFA interfaces for whole nodes, EFA settings for several nodes, AWS's scheduler for a part of a node."""
        instance = self.instance_of(recipe)
        is_whole = recipe.backend.devices == instance.devices
        efa = {EFA: str(instance.efa)} if is_whole and instance.efa else {}
        if recipe.backend.nodes > 1:
            return Placement({**efa, **_HUGE_PAGES}, _EFA_ENVIRONMENT, temporary=COMPILERS_FOLDERS)
        scheduler = None if is_whole or recipe.backend.devices == 1 else SCHEDULER
        return Placement(efa, scheduler=scheduler, temporary=COMPILERS_FOLDERS)

    def check(self, recipe: Recipe) -> None:
        """Check that devices and nodes support the recipe; report all problems together."""
        check_all([lambda: super(NeuronBackend, self).check(recipe), *self.checks(recipe)])

    def checks(self, recipe: Recipe) -> list[Check]:
        """Checks of a recipe besides method and precision."""
        return [
            lambda: self._check_devices(recipe),
            lambda: self._check_nodes(recipe),
            lambda: _check_job_kind(recipe),
        ]

    def cores_per_node(self, recipe: Recipe) -> int:
        """Number of logical cores of the recipe's devices per node."""
        return recipe.backend.devices * self.device_of(recipe).logical_cores

    def device_of(self, recipe: Recipe) -> Device:
        """The recipe's device.

        :raises AirsmithError: `bad_recipe` if the instance type has no supported device.
        """
        name = self.instance_of(recipe).device
        assert name is not None
        return instance_table().devices[name]

    def instance_of(self, recipe: Recipe) -> Instance:
        """The recipe's instance type.

        :raises AirsmithError: `bad_recipe` if the instance type is empty or has no supported device.
        """
        name = recipe.backend.instance_type
        instance = self._instances().get(name or "")
        if instance is not None:
            return instance
        what = (
            "is empty" if name is None else f"is {name!r}, which has no device that backend.name {self.name!r} supports"
        )
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.instance_type {what}; it determines the number of cores and the size of the pods.",
            f"Use one of {', '.join(self._instances())}.",
        )

    def _instances(self) -> dict[str, Instance]:
        """Instance types with devices of this backend."""
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
        if instance.device_counts and wanted not in instance.device_counts:
            nearest = [max(count for count in instance.device_counts if count < wanted)]
            nearest.append(min(count for count in instance.device_counts if count > wanted))
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.devices is {wanted}, but a pod on {name} can request only {_listed(instance.device_counts)} "
                "devices: AWS's scheduler assigns only connected devices.",
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
                f"backend.nodes is {recipe.backend.nodes}, but {name} does not support multi-node training: it has no "
                "EFA.",
                f"Set backend.nodes to 1, or use {' or '.join(large)}.",
            )
        if recipe.backend.devices < instance.devices:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"backend.devices is {recipe.backend.devices} of the {instance.devices} devices of {name}, but "
                "multi-node training requires whole nodes, with all EFA interfaces.",
                f"Set backend.devices to {instance.devices}, or backend.nodes to 1.",
            )


def share_of_node(instance: Instance, devices: int) -> PodSize:
    """Size of a pod that uses a number of an instance's devices."""
    share = devices / instance.devices
    memory = int(instance.memory_gib * _MEMORY_SHARE * share)
    return PodSize(
        cpu=str(max(1, int(instance.cpu * _CPU_SHARE * share))),
        memory=f"{memory}Gi",
        shared_memory=f"{max(1, int(memory * _SHARED_SHARE))}Gi",
    )


def _check_job_kind(recipe: Recipe) -> None:
    if recipe.backend.nodes > 1 and recipe.backend.job == "rayjob":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "backend.job is 'rayjob', but the Neuron images do not contain Ray.",
            "Set backend.job to 'jobset' or 'trainjob'.",
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(str(number) for number in numbers[:-1])} or all {numbers[-1]}"
