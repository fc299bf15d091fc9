from neuronx_distributed.pipeline import model, partition, trace
from neuronx_distributed.pipeline.model import NxDPPModel

__all__ = ["NxDPPModel", "model", "partition", "trace"]
