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
"""`<quota> <period>` in microseconds, or `max <period>`: the container's CPU limit (cgroup v2)."""

PROCESS_STATUS = Path("/proc/self/status")
"""Holds the peak resident memory of this process alone; `getrusage` starts from that of the parent process."""


@dataclass(frozen=True)
class CpuDevice:
    """All cores of one machine, or as many as the container's limit allows."""

    torch_device: str = "cpu"
    attn_implementation: str = "sdpa"
    process_group_backend: str = "gloo"
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    def prepare(self) -> None:
        """Use all cores, and make all operations deterministic.

        OpenMP's threads spin for a moment and then sleep. By default they keep spinning: if another process needs a
        core, each of the many small parallel regions then waits for a thread that is not running (measured: 5 times
        slower with one busy neighbor on two cores). Without spinning, every region must wake them (measured: 10%
        slower). libgomp reads the variables when it is loaded, so they are set before torch is imported.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import torch

        torch.set_num_threads(thread_count())
        torch.use_deterministic_algorithms(True)
        # Filling memory that is overwritten later takes time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast if the precision is bfloat16; without device memory, no host memory is pinned."""
        return {
            "use_cpu": True,
            "bf16": recipe.training.precision == "bfloat16",
            "optim": "adamw_torch_fused",
            "dataloader_pin_memory": False,
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """No arguments."""
        return {}

    def fuses_loss(self) -> bool:
        """False: Liger's kernels require a GPU."""
        return False

    def peak_flops_per_second(self, precision: str) -> float | None:
        """None: vendors publish no peak of CPU cores."""
        return None

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of this process."""
        return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Peak resident memory of this process."""
    try:
        lines = PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def thread_count() -> int:
    """Number of compute threads: `OMP_NUM_THREADS` if set, else the number of usable cores."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() and int(threads) > 0 else usable_cores()


def usable_cores() -> int:
    """Number of cores that this process may use, from its CPU affinity and its container's CPU limit."""
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
