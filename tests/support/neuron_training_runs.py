"""Runs that train a tiny Llama with optimum-neuron's trainer on the stubs, with a real store and real artifacts."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan, ParallelPlan, Plan
from airsmith.contracts.stages import STAGES, toolchain_for
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from tests.support.stage_runs import point_to, write_run
from tests.support.training_runs import TrainingRuns, counting_rows

MAX_LENGTH = 16
UNFUSED_PROJECTIONS = ("q_proj", "v_proj", "o_proj", "down_proj")
"""Layers that the library does not fuse: the names of their LoRA are those of peft."""
TRAINING = {
    "max_steps": 12,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 2,
    "learning_rate": 0.01,
    "warmup_ratio": 0.0,
    "logging_steps": 1,
    "save_steps": 4,
}


class NeuronTrainingRuns(TrainingRuns):
    """Creates runs for Neuron on a tiny base model."""

    def neuron_run(
        self,
        *,
        rows: int = 18,
        method: Mapping[str, Any] | None = None,
        parallel: ParallelPlan | None = None,
        dataset: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> Run:
        """Create a run whose upstream stages are done, for one process by default.

        :param training: replaces fields of `TRAINING`.
        """
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama"},
                "dataset": {
                    "id": "tests/rows", "validation_fraction": 0.1, "max_length": MAX_LENGTH, **(dataset or {}),
                },
                "method": method or {"name": "lora", "r": 4, "lora_alpha": 8, "target_modules": UNFUSED_PROJECTIONS},
                "training": {**TRAINING, **training},
                "backend": {"name": "neuron_xla", "instance_type": "trn1.2xlarge"},
            }
        )  # fmt: skip
        run = write_run(self.store, recipe, toolchains={"train": toolchain_for(STAGES["train"], recipe)})
        run.write_spec(run.read_spec().model_copy(update={"plan": plan_with(recipe, parallel or ParallelPlan())}))
        point_to(run, "mirror_model", self.base_model())
        point_to(run, "tokenize", self.tokens(f"rows-{rows}-{run.name}", counting_rows(rows)))
        point_to(run, "compile", self.compile_cache())
        return run

    def compile_cache(self) -> Artifact:
        """Publish a compile cache with one graph, unless it exists."""
        folder = "artifacts/compile_cache/one"
        found = open_artifact(self.store, folder)
        if found is not None:
            return found
        with write_artifact(self.store, folder, type="compile_cache", digest="one", inputs={}, versions={}) as writer:
            for name in ("model.neff", "model.done"):
                writer.add_bytes(f"neuronxcc-2/MODULE_1+a/{name}", b"graph")
            return writer.publish()


def plan_with(recipe: Recipe, parallel: ParallelPlan) -> Plan:
    """Make the recipe's plan with other parallel sizes."""
    total, most = recipe.training.total_train_batch_size, recipe.training.max_per_device_train_batch_size
    data = parallel.processes_per_node // parallel.tensor // parallel.pipeline
    batch = BatchPlan(
        per_device_train_batch_size=most,
        gradient_accumulation_steps=total // most // data,
        data_parallel_size=data,
    )
    return make_plan(recipe).model_copy(update={"parallel": parallel, "batch": batch})


@contextmanager
def torchrun_environment(rank: int = 0, world_size: int = 1, port: int = 0) -> Iterator[None]:
    """Set torchrun's variables for this process."""
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
    """Find a free port of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def train_in_process(run: Run) -> None:
    """Train in this process, as torchrun's only worker."""
    from airsmith_stages.stage_runner import run_worker

    with torchrun_environment():
        run_worker("train", run)


def train_as_worker(
    uri: str, log: Path, signal_at: tuple[int, int] | None, rank: int = 0, world_size: int = 1, port: int = 0
) -> None:
    """Train as one of torchrun's workers, and exit like a worker.

    :param log: file for stdout and stderr.
    :param signal_at: number of a micro-batch, and the signal that the process gets right before it.
    """
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if signal_at is not None:
        _send_signal_at(*signal_at)
    from airsmith_stages.failures import exit_code_of
    from airsmith_stages.stage_process import configure_logging, exit_process
    from airsmith_stages.stage_runner import run_worker

    with torchrun_environment(rank, world_size, port):
        configure_logging(is_main_process=rank == 0)
        exit_process(exit_code_of(lambda: run_worker("train", Run.open(uri))))


def _send_signal_at(call: int, signum: int) -> None:
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


def trained_artifact(run: Run) -> Artifact:
    """Open the artifact that a run's training published; workers write no pointer to it."""
    output = look_up_output(run, run.read_spec(), "train")
    artifact = open_artifact(run.store, output.location)
    assert artifact is not None
    return artifact


def history_of(run: Run) -> list[dict[str, Any]]:
    """Read the history of a run's training."""
    return [json.loads(line) for line in trained_artifact(run).read("metrics.jsonl").decode().splitlines()]


def losses_of(run: Run) -> list[float]:
    """Read the losses of a run's training."""
    return [row["loss"] for row in history_of(run)]
