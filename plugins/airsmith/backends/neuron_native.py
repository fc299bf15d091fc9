"""AWS Trainium 2 and 3 as a device of PyTorch's own (TorchNeuron): no stage compiles ahead. Experimental."""

from __future__ import annotations

from airsmith.backends.neuron import NEURON, NeuronBackend

NEURON_NATIVE = NeuronBackend(
    name="neuron_native",
    train_image="train-neuron-native",
    serve_image="vllm-neuron",
    device_resource=NEURON,
    precisions=("float32", "bfloat16"),
    refused_methods={"qlora": "its 4-bit kernels (bitsandbytes) need a CUDA GPU"},
    evaluates=False,
    accelerators=("trainium2",),
)
