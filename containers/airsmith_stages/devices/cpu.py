"""Plain CPUs: threads, determinism and data types."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airsmith.recipe import Recipe
from airsmith_stages.devices.base import TORCH_TRAINING

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""`<quota> <period>` in microseconds, or `max <period>`: what a container may use of the node's cores (cgroup v2)."""

PROCESS_STATUS = Path("/proc/self/status")
"""Linux's own count; what `getrusage` counts begins with the parent's."""


@dataclass(frozen=True)
class CpuDevice:
    """Every core of one machine, or as many as the container is given."""

    torch_device: str = "cpu"
    attn_implementation: str = "sdpa"
    process_group_backend: str = "gloo"
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    def prepare(self) -> None:
        """Take every core, and make each operation give the same result every time.

        OpenMP's threads wait for a moment and then sleep. By default they go on spinning, and where another process
        wants a core, each of the many small parallel regions then waits for a thread that is not running (measured: 5
        times slower with one busy neighbour on two cores); without that moment every region wakes them anew (measured:
        a tenth slower). libgomp reads the variables when it is loaded, so they are set before torch is.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import torch

        torch.set_num_threads(thread_count())
        torch.use_deterministic_algorithms(True)
        # Filling memory that is overwritten anyway costs time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast to bfloat16 where asked for; there is no device memory to pin host memory for."""
        return {
            "use_cpu": True,
            "bf16": recipe.training.precision == "bfloat16",
            "optim": "adamw_torch_fused",
            "dataloader_pin_memory": False,
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing beside the data type."""
        return {}

    def fuses_loss(self) -> bool:
        """Liger's kernels are for GPUs."""
        return False

    def peak_flops_per_second(self, precision: str) -> float | None:
        """No vendor says it of cores."""
        return None

    def peak_memory_bytes(self) -> int:
        """Most memory that the process has had resident."""
        return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Most of the host's memory that this process has had."""
    try:
        lines = PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def thread_count() -> int:
    """Threads to compute with: `OMP_NUM_THREADS` where set, else the cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else usable_cores()


def usable_cores() -> int:
    """Cores that this process may use: those it may be scheduled on, or fewer where its container has a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _container_cores()
    return cores if math.isinf(limit) else max(1, min(cores, math.ceil(limit)))


def _container_cores() -> float:
    try:
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


DEVICE = CpuDevice()
