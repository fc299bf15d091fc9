"""AWS Trainium 2 and 3 as a native PyTorch device (TorchNeuron), without a compile stage. Experimental."""

from __future__ import annotations

from airsmith.backends.neuron import NEURON, NeuronBackend

NEURON_NATIVE = NeuronBackend(
    name="neuron_native",
    train_image="train-neuron-native",
    serve_image="vllm-neuron",
    device_resource=NEURON,
    precisions=("float32", "bfloat16"),
    unsupported_methods={"qlora": "its 4-bit kernels (bitsandbytes) require a CUDA GPU"},
    evaluates=False,
    accelerators=("trainium2",),
)
