"""CPUs, for laptops, tests and small models. Each process counts as a device and gets an equal share of the cores."""

from __future__ import annotations

from airsmith.backends.base import Backend

CPU = Backend(
    name="cpu",
    train_image="train-cpu",
    serve_image="vllm-cpu",
    serve_arguments=("--enforce-eager",),
    serve_environment={"VLLM_CPU_KVCACHE_SPACE": "1"},  # GiB
    precisions=("float32", "bfloat16"),
    unsupported_methods={"qlora": "its 4-bit kernels (bitsandbytes) require a CUDA GPU"},
)
