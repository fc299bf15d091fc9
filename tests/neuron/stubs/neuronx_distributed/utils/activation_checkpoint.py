"""Used only for models outside optimum-neuron."""

from __future__ import annotations


def apply_activation_checkpointing(model, check_fn=None, **kwargs):
    raise NotImplementedError("Only optimum-neuron's own models are imitated")
