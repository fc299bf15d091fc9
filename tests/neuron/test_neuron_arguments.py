"""The arguments for optimum-neuron's trainer exist in its dataclass and have the declared types.

The installed package is inspected, so that an upgrade that renames or changes an argument fails here.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

from airsmith.contracts.spec import ParallelPlan, RunSpec
from airsmith_stages.neuron.arguments import training_arguments
from tests.support.neuron_training_runs import NeuronTrainingRuns, torchrun_environment

RECIPES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bfloat16": {"precision": "bfloat16", "gradient_checkpointing": True},
    "steps": {"warmup_steps": 5, "warmup_ratio": None, "lr_scheduler_type": "cosine", "weight_decay": 0.01},
    "epochs": {"max_steps": None, "num_train_epochs": 2.0, "warmup_ratio": 0.5, "max_grad_norm": 0.3},
}


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def spec(tmp_path: Path, request: pytest.FixtureRequest) -> RunSpec:
    trainings = NeuronTrainingRuns(tmp_path)
    return trainings.neuron_run(parallel=ParallelPlan(tensor=2, processes_per_node=2), **request.param).read_spec()


def test_every_argument_exists_in_the_library_with_its_type(spec: RunSpec, tmp_path: Path) -> None:
    from optimum.neuron import NeuronTrainingArguments
    from optimum.neuron.trainers import training_args

    types = typing.get_type_hints(NeuronTrainingArguments, vars(training_args))
    declared = {field.name: types[field.name] for field in dataclasses.fields(NeuronTrainingArguments)}
    for saves in (True, False):
        arguments = training_arguments(spec, tmp_path, 40, saves=saves)
        assert arguments.keys() <= declared.keys()
        wrong = {name for name, value in arguments.items() if not is_valid(value, declared[name])}
        assert not wrong


def is_valid(value: Any, declared: Any) -> bool:
    """Whether a value has a type, without conversion; an int is also a float."""
    try:
        TypeAdapter(declared, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError:
        return False
    return True


def test_the_library_interprets_the_arguments_as_intended(spec: RunSpec, tmp_path: Path) -> None:
    from optimum.neuron import NeuronTrainingArguments

    training = spec.recipe.training
    with torchrun_environment():
        arguments = NeuronTrainingArguments(**training_arguments(spec, tmp_path / "output", 40))
    assert arguments.get_warmup_steps(40) == {0.0: 0, 5: 5, 0.5: 20}[training.warmup]
    assert arguments.lr_scheduler_type.value == training.lr_scheduler_type
    assert arguments.trn_config.fuse_qkv is False
    assert arguments.skip_cache_push
    is_bfloat16 = training.precision == "bfloat16"
    assert (arguments.bf16, arguments.zero_1, arguments.optimizer_use_master_weights) == (
        is_bfloat16,
        is_bfloat16,
        is_bfloat16,
    )
    assert arguments.report_to == []


def test_compiling_differs_only_in_steps_and_saving(spec: RunSpec, tmp_path: Path) -> None:
    training, compiling = (
        training_arguments(spec, tmp_path / "train", 40),
        training_arguments(spec, tmp_path / "compile", 10, saves=False),
    )
    assert training.keys() == compiling.keys()
    different = {name for name in training if training[name] != compiling[name]}
    assert different <= {"output_dir", "max_steps", "save_strategy", "warmup_steps"}
    assert (training["warmup_steps"] > 0) == (compiling["warmup_steps"] > 0)
