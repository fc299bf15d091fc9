"""GPUs: NVIDIA with CUDA, AMD with ROCm."""

from __future__ import annotations

from airsmith.backends.base import Backend, PodSize

CUDA = Backend(
    name="cuda",
    train_image="train-cuda",
    serve_image="vllm-cuda",
    serve_size=PodSize(cpu="6", memory="64Gi"),
    device_resource="nvidia.com/gpu",
    pod_size=PodSize(cpu="6", memory="64Gi", shared_memory="16Gi"),
)

ROCM = Backend(
    name="rocm",
    train_image="train-rocm",
    serve_image="vllm-rocm",
    serve_size=PodSize(cpu="6", memory="64Gi"),
    device_resource="amd.com/gpu",
    pod_size=PodSize(cpu="6", memory="64Gi", shared_memory="16Gi"),
    unsupported_methods={"qlora": "its 4-bit kernels (bitsandbytes) require CUDA"},
)
