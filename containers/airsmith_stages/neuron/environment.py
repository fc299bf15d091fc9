"""Environment variables of a training's processes and of the compiler, in addition to those of the pod.

The values are those of AWS's training examples:
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/torch-neuronx/programming-guide/training/pytorch-neuron-programming-guide.html
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind

COMPILER_FLAGS = "NEURON_CC_FLAGS"

_ALWAYS = {
    "NEURON_FUSE_SOFTMAX": "1",
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "3",
    "MALLOC_ARENA_MAX": "64",  # glibc reads it at startup, before the library sets it.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
_TWO_CORES_AS_ONE = {"NEURON_LOGICAL_NC_CONFIG": "2", "NEURON_RT_VIRTUAL_CORE_SIZE": "2"}
"""Two physical cores form one logical core on these families, in plans too.
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/about-neuron/arch/neuron-features/logical-neuroncore-config.html"""
_PAIRED_FAMILIES = ("trn2",)

_CACHE_FLAG = re.compile(r"--cache_dir=(\S+)")
_READABLE_CACHE = re.compile(r"[\w/-]+")
"""Paths that the library can parse in the flag: `optimum.neuron.utils.cache_utils.get_neuron_cache_path`."""


def training_environment(spec: RunSpec, cache: Path) -> dict[str, str]:
    """Variables of the processes, the same for training and for compiling: otherwise the graphs would differ.

    :param cache: folder of the compiled graphs.
    :raises AirsmithError: `internal` if the compiler's tools cannot parse the folder's name.
    """
    _check_readable(cache)
    family = (spec.recipe.backend.instance_type or "").partition(".")[0]
    flags = f"--model-type transformer --distribution-strategy=llm-training --cache_dir={cache}"
    return {
        COMPILER_FLAGS: flags,
        **_ALWAYS,
        **(_TWO_CORES_AS_ONE if family in _PAIRED_FAMILIES else {}),
    }


def cache_folder() -> Path | None:
    """This process's folder of compiled graphs; None if it is not set."""
    found = _CACHE_FLAG.search(os.environ.get(COMPILER_FLAGS, ""))
    return None if found is None else Path(found[1])


def _check_readable(cache: Path) -> None:
    if not _READABLE_CACHE.fullmatch(str(cache)):
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"The cache folder is {cache}, but the compiler's tools support only letters, digits, `_`, `-` and `/`.",
            "Set AIRSMITH_SCRATCH to a folder whose path contains no other characters.",
        )
