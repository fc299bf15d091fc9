"""Of models that are not optimum-neuron's own."""

from __future__ import annotations


def apply_activation_checkpointing(model, check_fn=None, **kwargs):
    raise NotImplementedError("Only optimum-neuron's own models are imitated")
