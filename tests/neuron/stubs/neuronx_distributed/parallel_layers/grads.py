"""Mean of gradients over data-parallel ranks, and their norm."""

from __future__ import annotations

import torch
from torch_xla.core import xla_model as xm

from neuronx_distributed.parallel_layers.parallel_state import get_data_parallel_replica_groups, get_data_parallel_size


def bucket_allreduce_gradients(grads_list, reduce_over_ep_group=False):
    for grad in grads_list:
        grad.data /= get_data_parallel_size()
    xm.all_reduce(xm.REDUCE_SUM, list(grads_list), groups=get_data_parallel_replica_groups())


def clip_grad_norm(parameters, max_norm, norm_type=2, **kwargs):
    """Clip in place.

    :returns: the norm before it, as a tensor of one element.
    """
    grads = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(grad, norm_type) for grad in grads]), norm_type
    )
    factor = (max_norm / (norm + 1.0e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor)
    return norm.reshape(1)
