"""Trainium by PyTorch/XLA and optimum-neuron 0.4.5: compiling graphs ahead, and training with them."""
