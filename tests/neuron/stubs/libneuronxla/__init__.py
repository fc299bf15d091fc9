"""Stub of the compiler's cache, with what optimum-neuron imports."""
