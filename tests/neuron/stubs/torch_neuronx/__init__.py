"""Stub of torch_neuronx, with what optimum-neuron's training imports."""


class DataParallel:
    """Used only for inference."""
