"""Trainings of a tiny Llama by optimum-neuron's trainer on the stubs: real store, real artifacts, the stage's code.

Model, rows and store are those of the tests on CPUs.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan, ParallelPlan, Plan, RunSpec
from airsmith.contracts.stages import STAGES, toolchain_on
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

_ON_CPUS = Path(__file__).parents[1] / "airsmith_stages" / "training"
LENGTH = 16
UNFUSED = ("q_proj", "v_proj", "o_proj", "down_proj")
"""Layers that the library leaves apart: their LoRA is peft's own, name by name."""
TRAINING = {
    "max_steps": 12,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 2,
    "learning_rate": 0.01,
    "warmup_ratio": 0.0,
    "logging_steps": 1,
    "save_steps": 4,
}


def _bench_on_cpus() -> Any:
    sys.path.append(str(_ON_CPUS))
    spec = importlib.util.spec_from_file_location("trainings_on_cpus", _ON_CPUS / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


on_cpus = _bench_on_cpus()


class NeuronBench(on_cpus.Bench):  # type: ignore[misc,name-defined]
    """A store with a tiny base model, and runs on it."""

    def neuron_run(
        self,
        *,
        rows: int = 18,
        method: Mapping[str, Any] | None = None,
        parallel: ParallelPlan | None = None,
        dataset: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> Run:
        """A run whose upstream stages are done, planned for one process unless said otherwise."""
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama"},
                "dataset": {"id": "tests/rows", "validation_fraction": 0.1, "max_length": LENGTH, **(dataset or {})},
                "method": method or {"name": "lora", "r": 4, "lora_alpha": 8, "target_modules": UNFUSED},
                "training": {**TRAINING, **training},
                "backend": {"name": "neuron_xla", "instance_type": "trn1.2xlarge"},
            }
        )
        self.runs += 1
        run = Run(self.store, f"runs/tests/run-{self.runs}")
        plan = plan_of(recipe, parallel or ParallelPlan())
        image = plan.stage("train").image
        toolchain = toolchain_on(STAGES["train"], recipe)
        run.write_spec(
            RunSpec(
                dag_id="tests",
                run_id=f"run-{self.runs}",
                recipe=recipe,
                recipe_file="tiny.yaml",
                recipe_digest="0" * 64,
                plan=plan,
                airsmith_version="0",
                toolchains={image: {name: version(name) for name in toolchain}},
                created_at=datetime.now(timezone.utc),
            )
        )
        tokens = self.tokens(f"rows-{rows}-{self.runs}", on_cpus.counting_rows(rows))
        run.write_pointer(on_cpus.pointer_to("mirror_model", self.base()))
        run.write_pointer(on_cpus.pointer_to("tokenize", tokens))
        run.write_pointer(on_cpus.pointer_to("compile", self.cache()))
        return run

    def cache(self) -> Artifact:
        """A compile cache with one graph."""
        folder = "artifacts/compile_cache/one"
        found = open_artifact(self.store, folder)
        if found is not None:
            return found
        with write_artifact(self.store, folder, type="compile_cache", digest="one", inputs={}, versions={}) as writer:
            for name in ("model.neff", "model.done"):
                writer.add_bytes(f"neuronxcc-2/MODULE_1+a/{name}", b"graph")
            return writer.publish()


def plan_of(recipe: Recipe, parallel: ParallelPlan) -> Plan:
    """The recipe's plan with other parallel sizes."""
    total, most = recipe.training.total_train_batch_size, recipe.training.max_per_device_train_batch_size
    data = parallel.processes_per_node // parallel.tensor // parallel.pipeline
    batch = BatchPlan(
        per_device_train_batch_size=most,
        gradient_accumulation_steps=total // most // data,
        data_parallel_size=data,
    )
    return make_plan(recipe).model_copy(update={"parallel": parallel, "batch": batch})


@contextmanager
def as_torchrun_starts_it(rank: int = 0, world_size: int = 1, port: int = 0) -> Iterator[None]:
    """This process, among others or alone."""
    variables = {
        "TORCHELASTIC_RUN_ID": "tests", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port()),
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def train_here(run: Run) -> None:
    """Train in this process, as the only one that torchrun has started."""
    from airsmith_stages.frame import take_part

    with as_torchrun_starts_it():
        take_part("train", run)


def train_in_child(
    uri: str, log: Path, signal_at: tuple[int, int] | None, rank: int = 0, world_size: int = 1, port: int = 0
) -> None:
    """Train as a process that torchrun has started, and exit as it does.

    :param log: file for stdout and stderr.
    :param signal_at: number of the micro-batch, and the signal that the process gets right before it.
    """
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if signal_at is not None:
        _signal_at(*signal_at)
    from airsmith_stages.cli import begin, end
    from airsmith_stages.failures import exit_code_of
    from airsmith_stages.frame import take_part

    with as_torchrun_starts_it(rank, world_size, port):
        begin(leader=rank == 0)
        end(exit_code_of(lambda: take_part("train", Run.open(uri))))


def _signal_at(call: int, signum: int) -> None:
    from airsmith_stages.neuron.trainer import WarmRestartingTrainer

    original = WarmRestartingTrainer.training_step
    calls = 0

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    WarmRestartingTrainer.training_step = counted  # type: ignore[method-assign]


def artifact_of(run: Run) -> Artifact:
    """What a run has trained."""
    from airsmith.contracts.cache import look_up_output

    wanted = look_up_output(run, run.read_spec(), "train")
    artifact = open_artifact(run.store, wanted.location)
    assert artifact is not None
    return artifact


def history_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact_of(run).read("metrics.jsonl").decode().splitlines()]


def losses_of(run: Run) -> list[float]:
    return [row["loss"] for row in history_of(run)]
