"""What each stage reads and produces. These contracts decide when an output can be reused."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from airsmith.recipe import Recipe


class ArtifactType:
    """Types of stage outputs. All are artifacts except the last two, which are records of the registry."""

    BASE_MODEL = "base_model"
    DATASET = "dataset"
    TOKENS = "tokens"
    COMPILE_CACHE = "compile_cache"
    ADAPTER = "adapter"
    ADAPTER_SHARDS = "adapter_shards"
    MODEL_SHARDS = "model_shards"
    MODEL = "model"
    TRIALS = "trials"
    EVALUATION = "evaluation"
    SMOKE_REPORT = "smoke_report"
    MODEL_VERSION = "model_version"
    ENDPOINT = "endpoint"


@dataclass(frozen=True)
class Input:
    """A dependency on the output of an upstream stage.

    :param stage: the upstream stage.
    :param property: the declared property of the output that enters the digest; empty for the whole output.
    :param optional: whether the dependency exists only in runs that have the upstream stage.
    :param affects_digest: False if the input only makes the stage faster and does not change its output.
    """

    stage: str
    property: str = ""
    optional: bool = False
    affects_digest: bool = True


@dataclass(frozen=True)
class StageContract:
    """Everything that determines a stage's output.

    :param version: incremented manually when the stage's code produces a different output from the same input.
    :param output: type of the output.
    :param recipe_fields: dotted paths of recipe fields; the path of a group includes all its fields.
    :param inputs: upstream stages.
    :param toolchain: Python distributions whose version changes the output.
    """

    name: str
    version: int
    output: str
    recipe_fields: tuple[str, ...]
    inputs: tuple[Input, ...] = ()
    toolchain: tuple[str, ...] = ()

    def inputs_in(self, stages: Container[str]) -> tuple[Input, ...]:
        """The inputs in a run that has the given stages."""
        return tuple(source for source in self.inputs if not source.optional or source.stage in stages)


TOKENIZER = "tokenizer_digest"
"""Property of a base model: digest of the tokenizer's files."""

CONFIG = "config_digest"
"""Property of a base model: digest of its `config.json`."""

SHARDS = "shards"
"""Property of a sharded output: the number of processes that each wrote a shard."""

TENSOR_PARALLEL, PIPELINE_PARALLEL = "tensor_parallel_size", "pipeline_parallel_size"
"""Properties of a sharded output: the tensor and pipeline parallel sizes of the training."""

END_TOKENS = "end_tokens"
"""Property of tokens and of models trained on them: a JSON list of the token ids that end a generation."""

_TRAINING_TOOLCHAIN = ("torch", "transformers", "peft", "accelerate")
_NEURON_TOOLCHAIN = ("optimum-neuron", "neuronx-cc", "torch-neuronx")
_COMPILED_BACKENDS = ("neuron_xla",)
"""Backends that compile graphs ahead of the training, and whose training writes one shard per process."""

_CONTRACTS = (
    StageContract(
        "mirror_model",
        version=2,
        output=ArtifactType.BASE_MODEL,
        recipe_fields=("model.id", "model.revision", "model.exclude", "model.trust_remote_code"),
    ),
    StageContract(
        "mirror_dataset",
        version=1,
        output=ArtifactType.DATASET,
        recipe_fields=("dataset.id", "dataset.revision"),
    ),
    StageContract(
        "tokenize",
        version=2,
        output=ArtifactType.TOKENS,
        recipe_fields=("dataset",),
        inputs=(Input("mirror_model", property=TOKENIZER), Input("mirror_dataset")),
        toolchain=("transformers", "tokenizers", "datasets"),
    ),
    StageContract(
        "compile",
        version=1,
        output=ArtifactType.COMPILE_CACHE,
        recipe_fields=(),
        inputs=(Input("mirror_model", property=CONFIG),),
        toolchain=("torch", "transformers", "peft"),
    ),
    StageContract(
        "train",
        version=1,
        output=ArtifactType.ADAPTER,
        recipe_fields=("model.dtype", "model.trust_remote_code", "method", "training", "backend"),
        inputs=(Input("mirror_model"), Input("tokenize"), Input("compile", optional=True, affects_digest=False)),
        toolchain=_TRAINING_TOOLCHAIN,
    ),
    StageContract(
        "consolidate",
        version=2,
        output=ArtifactType.MODEL,
        recipe_fields=("model.max_shard_size",),
        inputs=(Input("train"),),
    ),
    StageContract(
        "compare_trials",
        version=1,
        output=ArtifactType.TRIALS,
        recipe_fields=(),
        inputs=(Input("train"),),
    ),
    StageContract(
        "merge",
        version=3,
        output=ArtifactType.MODEL,
        recipe_fields=("model.dtype", "model.max_shard_size", "dataset.chat_template"),
        inputs=(Input("mirror_model"), Input("train"), Input("consolidate", optional=True)),
        toolchain=("numpy",),
    ),
    StageContract(
        "evaluate",
        version=1,
        output=ArtifactType.EVALUATION,
        recipe_fields=("model.dtype", "model.trust_remote_code", "evaluate"),
        inputs=(Input("mirror_model"), Input("tokenize"), Input("merge")),
        toolchain=_TRAINING_TOOLCHAIN,
    ),
    StageContract(
        "register",
        version=1,
        output=ArtifactType.MODEL_VERSION,
        recipe_fields=("name",),
        inputs=(
            Input("mirror_model"),
            Input("tokenize"),
            Input("train"),
            Input("consolidate", optional=True),
            Input("merge"),
            Input("evaluate"),
        ),
    ),
    StageContract(
        "deploy",
        version=1,
        output=ArtifactType.ENDPOINT,
        recipe_fields=("name", "serve", "model.trust_remote_code"),
        inputs=(Input("merge"), Input("register")),
    ),
    StageContract(
        "smoke_test",
        version=1,
        output=ArtifactType.SMOKE_REPORT,
        recipe_fields=("name", "serve"),
        inputs=(Input("evaluate"), Input("deploy")),
    ),
)

STAGES: Mapping[str, StageContract] = {contract.name: contract for contract in _CONTRACTS}
"""Every stage by name, in topological order."""

HUB_STAGES = ("mirror_model", "mirror_dataset")
"""The stages that access the Hub. All other stages run with the Hub client in offline mode."""
TRAINING = ("compile", "train")
"""The stages that run as a training job: long, on the recipe's devices, and resumed by the next attempt."""

TOOLCHAIN = frozenset(_NEURON_TOOLCHAIN).union(*(contract.toolchain for contract in _CONTRACTS))
"""Every Python distribution whose version changes an output of any stage on any backend."""

IGNORED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "train": (
        "backend.job",
        "backend.queue",
        "backend.priority",
        "backend.resources",
        "training.logging_steps",
        "training.save_total_limit",
    ),
    "evaluate": ("evaluate.resources",),
}
"""Fields of a declared group that do not change the stage's output, by stage."""


def output_type(contract: StageContract, recipe: Recipe) -> str:
    """Type of a stage's output for this recipe: adapter or model, complete or sharded."""
    is_full = recipe.method.name == "full"
    if contract.name == "train" and has_sharded_output(recipe):
        return ArtifactType.MODEL_SHARDS if is_full else ArtifactType.ADAPTER_SHARDS
    if contract.name == "train" and is_full:
        return ArtifactType.MODEL
    if contract.name == "consolidate" and not is_full:
        return ArtifactType.ADAPTER
    return contract.output


def has_sharded_output(recipe: Recipe) -> bool:
    """Whether the training writes shards, one for each of several processes."""
    if recipe.backend.name in _COMPILED_BACKENDS:
        return True
    return recipe.method.name == "full" and _has_several_processes(recipe)


def toolchain_for(contract: StageContract, recipe: Recipe) -> tuple[str, ...]:
    """Python distributions whose version changes a stage's output for this recipe."""
    is_compiled = contract.name in TRAINING and recipe.backend.name in _COMPILED_BACKENDS
    return contract.toolchain + (_NEURON_TOOLCHAIN if is_compiled else ())


def _has_several_processes(recipe: Recipe) -> bool:
    """Whether several processes train together. A Neuron device has several cores with one process each."""
    backend = recipe.backend
    return backend.devices * backend.nodes > 1 or backend.name == "neuron_native"


def public_version(version: str) -> str:
    """A version without its local part (PEP 440): `2.13.0+cpu` and `2.13.0` are builds of the same release."""
    return version.partition("+")[0]
