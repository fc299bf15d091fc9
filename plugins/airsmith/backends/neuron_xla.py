"""AWS Trainium 1 and 2 by PyTorch/XLA and optimum-neuron 0.4.5: graphs are compiled ahead, the model is shared out.

What the library cannot do is refused here by its own rules; where it reads them from a model's config, once that is
known.
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
        """As many neighbouring cores to every layer as the device's row says, and data parallel beyond."""
        cores, backend = self.cores_per_node(recipe), recipe.backend
        pipeline = backend.pipeline_parallel_size or 1
        shared = math.gcd(self.device_of(recipe).tensor_parallel_size, cores, cores * backend.nodes // pipeline)
        tensor = backend.tensor_parallel_size or max(1, shared)
        return ParallelPlan(tensor=tensor, pipeline=pipeline, processes_per_node=cores)

    def target_modules(self, recipe: Recipe) -> tuple[str, ...]:
        """Names of layers: the library takes nothing else."""
        return target_names(recipe.method)

    def notes(self, recipe: Recipe) -> tuple[str, ...]:
        """How rows are attended to, where that costs something."""
        length = recipe.dataset.max_length
        if uses_flash_attention(length):
            return ()
        return (
            f"Rows of {length} tokens are computed without Neuron's attention kernel, which takes multiples of "
            f"{FLASH_TILE}: all scores of a row are held in memory.",
        )

    def checks(self, recipe: Recipe) -> list[Check]:
        """What the library cannot do, or would leave out without a word."""
        rules: tuple[Callable[[Recipe], None], ...] = (
            self._check_sizes, _check_packing, _check_validation, self._check_rows,
        )  # fmt: skip
        return [
            *super().checks(recipe),
            *(partial(rule, recipe) for rule in rules),
            *check_lora(recipe),
        ]

    def check_model(self, recipe: Recipe, model: ModelSizes) -> None:
        """Refuse a model that the planned processes cannot share; everything at once."""
        parallel = self.parallel(recipe)
        sizes = [size for size in range(1, parallel.processes_per_node + 1) if self._is_possible(recipe, size)]
        checks: list[Check] = [
            lambda: check_tensor_parallel(model, parallel.tensor, sizes),
            lambda: check_layers(model, parallel.pipeline),
        ]
        if recipe.method.name != "full" and shares_heads_unevenly(model, parallel.tensor):
            why = (
                f"optimum-neuron makes one layer of q, k and v where {model.num_key_value_heads} key and value heads "
                f"are shared by {parallel.tensor} processes"
            )
            checks.append(lambda: check_fused(recipe.method, QKV, why))
        check_all(checks)

    def _is_possible(self, recipe: Recipe, tensor: int) -> bool:
        """Whether the planned cores can be in groups of a size."""
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
            f"not share out {total} cores: a group of every layer lies on one node's {parallel.processes_per_node}, "
            "and all groups are of one size.",
            "Use sizes whose product divides the cores; powers of two do. Or leave them out.",
        )

    def _check_rows(self, recipe: Recipe) -> None:
        length, tensor = recipe.dataset.max_length, self.parallel(recipe).tensor
        if length > FLASH_TILE and not uses_flash_attention(length):
            below = length - length % FLASH_TILE
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"dataset.max_length is {length}, but Neuron's attention kernel takes multiples of {FLASH_TILE}, and "
                "without it rows of that length take too much memory.",
                f"Use {below} or {below + FLASH_TILE}.",
            )
        if length % tensor and self._is_possible(recipe, tensor):
            below = length - length % tensor
            nearest = [str(each) for each in (below, below + tensor) if each > 0]
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"dataset.max_length {length} does not divide by the {tensor} cores that share every layer, and with "
                "it the tokens of a row between them.",
                f"Use {' or '.join(nearest)}.",
            )


def _check_packing(recipe: Recipe) -> None:
    if recipe.dataset.packing == "isolated":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "dataset.packing is 'isolated', but attention on Neuron sees all of a row: optimum-neuron drops the mask.",
            "Set dataset.packing to 'none', or to 'across_samples' if examples may see those before them.",
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
        f"training.eval_steps is {recipe.training.eval_steps}, but optimum-neuron does not validate while it trains: "
        "base and tuned model are compared by a stage of its own.",
        f"Remove training.eval_steps{also}.",
    )


NEURON_XLA = NeuronXla(
    name="neuron_xla",
    train_image="train-neuron-xla",
    serve_image="vllm-neuron",
    optional_stages=frozenset({"compile", "consolidate"}),
    precisions=("float32", "bfloat16"),
    refused_methods={"qlora": "AWS's SDK has no 4-bit kernels for training (aws-neuron-sdk#957)"},
    device_resource=NEURON,
    splits_model=True,
    evaluates=False,
    model_types=("llama", "qwen3", "granite"),
    accelerators=("trainium", "trainium2"),
)
