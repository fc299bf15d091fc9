"""The environment that a training's processes need from their start, and so the compiler's, beside what the pod's has.

As AWS's own examples of training set it:
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
    "MALLOC_ARENA_MAX": "64",  # glibc reads it once, and the library sets it when that is over.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
_TWO_CORES_AS_ONE = {"NEURON_LOGICAL_NC_CONFIG": "2", "NEURON_RT_VIRTUAL_CORE_SIZE": "2"}
"""How the cores of these families are counted, in a plan as well.
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/about-neuron/arch/neuron-features/logical-neuroncore-config.html"""
_PAIRED_FAMILIES = ("trn2",)

_CACHE_FLAG = re.compile(r"--cache_dir=(\S+)")
_READABLE_CACHE = re.compile(r"[\w/-]+")
"""What the library finds in the flag: `optimum.neuron.utils.cache_utils.get_neuron_cache_path`."""


def training_environment(spec: RunSpec, cache: Path) -> dict[str, str]:
    """Variables of the processes that train, or whose graphs are compiled: the same, or the graphs would differ.

    :param cache: where compiled graphs lie.
    :raises AirsmithError: `internal` where the compiler's tools could not read that folder's name.
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
    """Where this process looks for compiled graphs; None where nobody has said it."""
    found = _CACHE_FLAG.search(os.environ.get(COMPILER_FLAGS, ""))
    return None if found is None else Path(found[1])


def _check_readable(cache: Path) -> None:
    if not _READABLE_CACHE.fullmatch(str(cache)):
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"Compiled graphs would lie in {cache}, but the compiler's tools read only letters, digits, `_`, `-`, `/`.",
            "Set AIRSMITH_SCRATCH to a folder whose name has no other characters.",
        )
