"""The launch command: the same for compile and train, and used only by a stage that needs torchrun."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import ParallelPlan, Plan, RunSpec
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith_stages.launch import is_launched, launch_command

RUN = Run(Store.open("file:///store"), "runs/tests/run-1")


def spec_of(processes_per_node: int = 1, **backend: Any) -> RunSpec:
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"id": "tests/tiny-llama"},
            "dataset": {"id": "tests/rows", "validation_fraction": 0.1, "max_length": 64},
            "training": {"max_steps": 1, "total_train_batch_size": 32},
            "backend": backend,
        }
    )
    parallel = ParallelPlan(processes_per_node=processes_per_node)
    plan: Plan = make_plan(recipe).model_copy(update={"parallel": parallel})
    return RunSpec(
        dag_id="tests",
        run_id="run-1",
        recipe=recipe,
        recipe_file="tiny.yaml",
        recipe_digest="0" * 64,
        plan=plan,
        airsmith_version="0",
        created_at=datetime.now(timezone.utc),
    )


def trainium(**backend: Any) -> RunSpec:
    return spec_of(32, name="neuron_xla", instance_type="trn1.32xlarge", devices=16, **backend)


def test_compile_and_train_differ_only_in_the_stage_name() -> None:
    spec = trainium()
    compiling, training = (launch_command(stage, RUN, spec, "/scratch/logs") for stage in ("compile", "train"))
    assert [pair for pair in zip(compiling, training, strict=True) if pair[0] != pair[1]] == [("compile", "train")]


def test_every_core_of_a_node_has_a_rank() -> None:
    command = launch_command("train", RUN, trainium(), "/scratch/logs")
    assert command[1:] == [
        "-m", "airsmith_stages.torchrun",
        "--standalone",
        "--nproc-per-node", "32",
        "--max-restarts", "0",
        "--monitor-interval", "0.5",
        "--log-dir", "/scratch/logs",
        "--module", "airsmith_stages.worker", "train", "file:///store/runs/tests/run-1",
    ]  # fmt: skip


def test_several_nodes_rendezvous_at_the_address_of_the_environment() -> None:
    command = launch_command("train", RUN, spec_of(4, devices=4, nodes=2), "/scratch/logs")
    assert command[3:9] == ["--nnodes", "2", "--rdzv-backend", "static", "--nproc-per-node", "4"]


@pytest.mark.parametrize(
    ("stage", "spec", "launched"),
    [
        ("train", spec_of(), False),
        ("train", spec_of(2, devices=2), True),
        ("train", spec_of(1, nodes=2), True),
        ("train", spec_of(1, name="neuron_xla", instance_type="trn1.2xlarge"), True),
        ("compile", spec_of(1, name="neuron_xla", instance_type="trn1.2xlarge"), True),
        ("evaluate", spec_of(2, devices=2), False),
        ("tokenize", trainium(), False),
    ],
)
def test_only_stages_that_need_torchrun_are_launched(stage: str, spec: RunSpec, launched: bool) -> None:
    assert is_launched(stage, spec) is launched
