"""Training on Trainium with PyTorch/XLA and optimum-neuron 0.4.5, and compiling its graphs ahead of time."""
