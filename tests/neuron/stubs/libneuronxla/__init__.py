"""The compiler's cache as far as optimum-neuron imports it."""
