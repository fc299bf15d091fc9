"""What each stage reads and makes: the one place that decides when a result may be reused."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from airsmith.recipe import Recipe


class ArtifactType:
    """Types of what stages make. All but the last two are artifacts; a version and an endpoint the registry keeps."""

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
    """A stage whose output is read.

    :param stage: the upstream stage.
    :param property: the declared property of its output that counts for the digest; the whole output where empty.
    :param optional: whether it counts only in runs that have that stage.
    :param determines: whether the result depends on it: what only makes a stage faster is no part of its digest.
    """

    stage: str
    property: str = ""
    optional: bool = False
    determines: bool = True


@dataclass(frozen=True)
class StageContract:
    """What determines a stage's output.

    :param version: raised by hand when the stage's code makes a different output from the same input.
    :param output: type of what it makes.
    :param recipe_fields: dotted paths of the recipe; a group's path means all its fields.
    :param inputs: upstream stages.
    :param toolchain: distributions whose version changes the output.
    """

    name: str
    version: int
    output: str
    recipe_fields: tuple[str, ...]
    inputs: tuple[Input, ...] = ()
    toolchain: tuple[str, ...] = ()

    def inputs_among(self, stages: Container[str]) -> tuple[Input, ...]:
        """The inputs in a run of these stages."""
        return tuple(source for source in self.inputs if not source.optional or source.stage in stages)


TOKENIZER = "tokenizer_digest"
"""Property of a base model: digest of the files that a tokenizer is made of."""

CONFIG = "config_digest"
"""Property of a base model: digest of its `config.json`."""

SHARDS = "shards"
"""Property of what lies in shards: how many processes have each written their part."""

TENSOR_PARALLEL, PIPELINE_PARALLEL = "tensor_parallel_size", "pipeline_parallel_size"
"""Properties of shards that belong to one part of every layer, and to some of the layers, each."""

END_TOKENS = "end_tokens"
"""Property of tokens, and of what is trained on them: a JSON list of the ids at which the model learns to stop."""

_TRAINING_TOOLCHAIN = ("torch", "transformers", "peft", "accelerate")
_NEURON_TOOLCHAIN = ("optimum-neuron", "neuronx-cc", "torch-neuronx")
_COMPILED_BACKENDS = ("neuron_xla",)
"""Whose graphs are compiled ahead, and whose trainings leave what they have made in shards, one per process."""

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
        inputs=(Input("mirror_model"), Input("tokenize"), Input("compile", optional=True, determines=False)),
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
"""Every stage by name, in an order in which each follows its inputs."""

HUB_STAGES = ("mirror_model", "mirror_dataset")
"""The stages that talk to the Hub. All others run with the Hub's client switched off."""
TRAINING = ("compile", "train")
"""The stages of the training's own launch: long, on the recipe's devices, and resumed by the next try."""

TOOLCHAIN = frozenset(_NEURON_TOOLCHAIN).union(*(contract.toolchain for contract in _CONTRACTS))
"""Every distribution whose version changes some stage's output on some backend."""

NOT_DETERMINING: Mapping[str, tuple[str, ...]] = {
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
"""Fields under a declared group that leave a stage's output as it is."""


def output_type(contract: StageContract, recipe: Recipe) -> str:
    """Type of a stage's output for this recipe: of an adapter or of all parameters, whole or in shards."""
    is_full = recipe.method.name == "full"
    if contract.name == "train" and trains_shards(recipe):
        return ArtifactType.MODEL_SHARDS if is_full else ArtifactType.ADAPTER_SHARDS
    if contract.name == "train" and is_full:
        return ArtifactType.MODEL
    if contract.name == "consolidate" and not is_full:
        return ArtifactType.ADAPTER
    return contract.output


def trains_shards(recipe: Recipe) -> bool:
    """Whether the training leaves shards: each of several processes has a part of what was trained."""
    if recipe.backend.name in _COMPILED_BACKENDS:
        return True
    return recipe.method.name == "full" and _has_several_processes(recipe)


def toolchain_on(contract: StageContract, recipe: Recipe) -> tuple[str, ...]:
    """Distributions whose version changes the output of a stage of this recipe."""
    is_compiled = contract.name in TRAINING and recipe.backend.name in _COMPILED_BACKENDS
    return contract.toolchain + (_NEURON_TOOLCHAIN if is_compiled else ())


def _has_several_processes(recipe: Recipe) -> bool:
    """Whether several train together. A device of Neuron has several cores, and a process on each."""
    backend = recipe.backend
    return backend.devices * backend.nodes > 1 or backend.name == "neuron_native"


def public_version(version: str) -> str:
    """A version without its local part (PEP 440): `2.13.0+cpu` and `2.13.0` are builds of one release."""
    return version.partition("+")[0]
