"""torch_neuronx as far as optimum-neuron's training imports it."""


class DataParallel:
    """Of inference."""
