"""Assigns parameters to pipeline ranks; does not run a pipeline."""

from __future__ import annotations

from torch import nn

from neuronx_distributed.parallel_layers.parallel_state import (
    get_pipeline_model_parallel_rank,
    get_pipeline_model_parallel_size,
)
from neuronx_distributed.pipeline.partition import create_partitions

trace_model = None  # replaced by optimum-neuron


class NxDPPModel(nn.Module):
    def __init__(self, module, transformer_layer_cls=None, **kwargs):
        super().__init__()
        self.original_torch_module = module
        self._layers = [name for name, part in module.named_modules() if isinstance(part, transformer_layer_cls)]

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.original_torch_module, name)

    def local_state_dict(self, *args, **kwargs):
        """Modules before the first layer belong to the first rank, modules after the last layer to the last rank."""
        state = self.original_torch_module.state_dict(*args, **kwargs)
        size, rank = get_pipeline_model_parallel_size(), get_pipeline_model_parallel_rank()
        ends = [self._layers.index(cut) + 1 for cut in create_partitions(size, self._layers)]
        bounds = [0, *ends, len(self._layers)]
        mine = {f"{layer}." for layer in self._layers[bounds[rank] : bounds[rank + 1]]}
        local, layers_begun = {}, False
        for name, value in state.items():
            in_layer = any(name.startswith(f"{layer}.") for layer in self._layers)
            layers_begun = layers_begun or in_layer
            outside = rank == (size - 1 if layers_begun else 0)
            if any(name.startswith(layer) for layer in mine) if in_layer else outside:
                local[name] = value
        return local

    def local_named_parameters(self, *args, **kwargs):
        local = self.local_state_dict()
        return ((name, value) for name, value in self.original_torch_module.named_parameters() if name in local)
