"""Stub of ZeRO-1: instead of its shard, each data-parallel rank updates all parameters, with the same result.

The real one keeps fp32 copies of bf16 parameters; here a parameter is updated in its own type.
"""

from __future__ import annotations

import torch

from neuronx_distributed.parallel_layers.grads import bucket_allreduce_gradients, clip_grad_norm


class NeuronZero1Optimizer(torch.optim.Optimizer):
    def __init__(self, params, optimizer_class, grad_clipping=True, max_norm=None, **config):
        super().__init__(params, {})
        # Both share the parameter groups, so that a scheduler of one sets the learning rate of the other.
        self.base_optimizer = optimizer_class(self.param_groups)
        self.base_optimizer.param_groups = self.param_groups
        self.grad_clipping, self.max_norm, self._grad_norm = grad_clipping, max_norm, None

    def step(self, closure=None):
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        bucket_allreduce_gradients([parameter.grad for parameter in parameters if parameter.grad is not None])
        self._grad_norm = None
        if self.grad_clipping and self.max_norm:
            self._grad_norm = clip_grad_norm(parameters, self.max_norm)
        self.base_optimizer.step(closure)

    def state_dict(self):
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict):
        self.base_optimizer.load_state_dict(state_dict)
