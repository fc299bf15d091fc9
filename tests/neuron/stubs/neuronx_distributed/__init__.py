"""Stub of neuronx_distributed for CPUs: layers compute at tensor-parallel size 1; shapes and shards work at any size.

Source: https://github.com/aws-neuron/neuronx-distributed, whose files have these files' names.
"""

import sys
from types import ModuleType

from neuronx_distributed import pipeline, trainer  # both are used as attributes

# For a training model, optimum-neuron also imports its inference models, which require the compiler's kernels.
_INFERENCE = "optimum.neuron.models.inference.auto_models"
sys.modules.setdefault(_INFERENCE, ModuleType(_INFERENCE))

__all__ = ["pipeline", "trainer"]
