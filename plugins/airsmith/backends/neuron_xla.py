"""AWS Trainium 1 and 2 with PyTorch/XLA and optimum-neuron 0.4.5: ahead-of-time compilation and model parallelism.

The checks follow the rules of the library; those that depend on the model's config run as soon as it is available.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from airsmith.backends.model_sizes import ModelSizes
from airsmith.backends.neuron import NEURON, NeuronBackend
from airsmith.backends.neuron_lora import QKV, check_fused, check_lora, target_names
from airsmith.backends.neuron_model import check_layers, check_tensor_parallel, shares_heads_unevenly
from airsmith.contracts.graphs import FLASH_TILE, uses_flash_attention
from airsmith.contracts.spec import ParallelPlan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import Check, check_all
from airsmith.recipe import Recipe


@dataclass(frozen=True)
class NeuronXla(NeuronBackend):
    """PyTorch/XLA on Trainium."""

    def parallel(self, recipe: Recipe) -> ParallelPlan:
        """Tensor parallel across neighboring cores, up to the device's default, and data parallel beyond."""
        cores, backend = self.cores_per_node(recipe), recipe.backend
        pipeline = backend.pipeline_parallel_size or 1
        shared = math.gcd(self.device_of(recipe).tensor_parallel_size, cores, cores * backend.nodes // pipeline)
        tensor = backend.tensor_parallel_size or max(1, shared)
        return ParallelPlan(tensor=tensor, pipeline=pipeline, processes_per_node=cores)

    def target_modules(self, recipe: Recipe) -> tuple[str, ...]:
        """Layer names, the only form that the library supports."""
        return target_names(recipe.method)

    def notes(self, recipe: Recipe) -> tuple[str, ...]:
        """A note if the attention kernel does not support the row length."""
        length = recipe.dataset.max_length
        if uses_flash_attention(length):
            return ()
        return (
            f"Rows of {length} tokens are computed without Neuron's attention kernel, which requires multiples of "
            f"{FLASH_TILE}: all attention scores of a row are kept in memory.",
        )

    def checks(self, recipe: Recipe) -> list[Check]:
        """Checks for settings that the library does not support or silently ignores."""
        rules: tuple[Callable[[Recipe], None], ...] = (
            self._check_sizes, _check_packing, _check_validation, self._check_rows,
        )  # fmt: skip
        return [
            *super().checks(recipe),
            *(partial(rule, recipe) for rule in rules),
            *check_lora(recipe),
        ]

    def check_model(self, recipe: Recipe, model: ModelSizes) -> None:
        """Check that the model can be sharded across the planned processes; report all problems together."""
        parallel = self.parallel(recipe)
        sizes = [size for size in range(1, parallel.processes_per_node + 1) if self._is_possible(recipe, size)]
        checks: list[Check] = [
            lambda: check_tensor_parallel(model, parallel.tensor, sizes),
            lambda: check_layers(model, parallel.pipeline),
        ]
        if recipe.method.name != "full" and shares_heads_unevenly(model, parallel.tensor):
            why = (
                f"optimum-neuron fuses q, k and v into one layer if {parallel.tensor} processes share "
                f"{model.num_key_value_heads} key and value heads"
            )
            checks.append(lambda: check_fused(recipe.method, QKV, why))
        check_all(checks)

    def _is_possible(self, recipe: Recipe, tensor: int) -> bool:
        """Whether the planned cores can form tensor parallel groups of a size."""
        parallel = self.parallel(recipe)
        total = parallel.processes_per_node * recipe.backend.nodes
        return parallel.processes_per_node % tensor == 0 and total % (tensor * parallel.pipeline) == 0

    def _check_sizes(self, recipe: Recipe) -> None:
        parallel = self.parallel(recipe)
        if self._is_possible(recipe, parallel.tensor):
            return
        total = parallel.processes_per_node * recipe.backend.nodes
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.tensor_parallel_size {parallel.tensor} and backend.pipeline_parallel_size {parallel.pipeline} do "
            f"not divide {total} cores evenly: a tensor parallel group must fit the {parallel.processes_per_node} "
            "cores of one node, and all groups must have the same size.",
            "Use sizes whose product divides the number of cores, for example powers of two, or leave them empty.",
        )

    def _check_rows(self, recipe: Recipe) -> None:
        length, tensor = recipe.dataset.max_length, self.parallel(recipe).tensor
        if length > FLASH_TILE and not uses_flash_attention(length):
            below = length - length % FLASH_TILE
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"dataset.max_length is {length}, but Neuron's attention kernel requires multiples of {FLASH_TILE}, "
                "and rows of this length use too much memory without it.",
                f"Use {below} or {below + FLASH_TILE}.",
            )
        if length % tensor and self._is_possible(recipe, tensor):
            below = length - length % tensor
            nearest = [str(each) for each in (below, below + tensor) if each > 0]
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"dataset.max_length {length} does not divide by the {tensor} cores of a tensor parallel group, which "
                "also shard the tokens of a row.",
                f"Use {' or '.join(nearest)}.",
            )


def _check_packing(recipe: Recipe) -> None:
    if recipe.dataset.packing == "isolated":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "dataset.packing is 'isolated', but attention on Neuron covers the whole row: optimum-neuron drops "
            "the mask.",
            "Set dataset.packing to 'none', or to 'across_samples' if examples may attend to earlier ones.",
        )


def _check_validation(recipe: Recipe) -> None:
    if recipe.training.eval_steps is None:
        return
    needed_by = [
        name for name in ("load_best_model_at_end", "early_stopping_patience") if getattr(recipe.training, name)
    ]
    also = f", and with it training.{' and training.'.join(needed_by)}" if needed_by else ""
    also += ", and a sweep, which compares validation losses" if recipe.sweep is not None else ""
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"training.eval_steps is {recipe.training.eval_steps}, but optimum-neuron does not support validation during "
        "training; the evaluate stage compares base and tuned model.",
        f"Remove training.eval_steps{also}.",
    )


NEURON_XLA = NeuronXla(
    name="neuron_xla",
    train_image="train-neuron-xla",
    serve_image="vllm-neuron",
    optional_stages=frozenset({"compile", "consolidate"}),
    precisions=("float32", "bfloat16"),
    unsupported_methods={"qlora": "AWS's SDK has no 4-bit kernels for training (aws-neuron-sdk#957)"},
    device_resource=NEURON,
    splits_model=True,
    evaluates=False,
    model_types=("llama", "qwen3", "granite"),
    accelerators=("trainium", "trainium2"),
)
