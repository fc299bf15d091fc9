"""Plain CPUs: laptops, tests and small models."""

from __future__ import annotations

from dataclasses import dataclass

from airsmith.backends.base import Backend
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe


@dataclass(frozen=True)
class CpuBackend(Backend):
    """One process that uses every core; several devices have no meaning."""

    def check(self, recipe: Recipe) -> None:
        """Refuse more than one device as well."""
        super().check(recipe)
        for name in ("devices", "nodes"):
            if getattr(recipe.backend, name) != 1:
                raise AirsmithError(
                    ErrorKind.BAD_RECIPE,
                    f"backend.{name} is {getattr(recipe.backend, name)}, but backend.name 'cpu' trains in one process.",
                    f"Set backend.{name} to 1.",
                )


CPU = CpuBackend(
    name="cpu",
    train_image="train-cpu",
    serve_image="vllm-cpu",
    serve_arguments=("--enforce-eager",),
    serve_environment={"VLLM_CPU_KVCACHE_SPACE": "1"},  # GiB
    precisions=("float32", "bfloat16"),
    refused_methods={"qlora": "its 4-bit kernels (bitsandbytes) need a CUDA GPU"},
)
