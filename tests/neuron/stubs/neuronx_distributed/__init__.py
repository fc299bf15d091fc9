"""neuronx_distributed on a CPU: real layers at tensor-parallel size 1, real shapes, sharding and saving at any.

Source: https://github.com/aws-neuron/neuronx-distributed, whose files have these files' names.
"""

import sys
from types import ModuleType

from neuronx_distributed import pipeline, trainer  # both are reached as attributes

# Asked for a model to train, optimum-neuron imports those of inference, too, which need a compiler's kernels.
_INFERENCE = "optimum.neuron.models.inference.auto_models"
sys.modules.setdefault(_INFERENCE, ModuleType(_INFERENCE))

__all__ = ["pipeline", "trainer"]
