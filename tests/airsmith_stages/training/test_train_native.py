"""The native Neuron backend trains with the code of all other backends: on a CPU, its losses are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan
from airsmith_stages.devices import neuron_native
from airsmith_stages.stage_runner import run_worker
from tests.support.training_runs import TrainingRuns, counting_rows

ALONE = BatchPlan(per_device_train_batch_size=2, gradient_accumulation_steps=2, data_parallel_size=1)
BACKENDS: dict[str, dict[str, Any]] = {
    "cpu": {"name": "cpu"},
    "neuron_native": {"name": "neuron_native", "instance_type": "trn2.3xlarge"},
}


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_losses_equal_those_of_the_cpu_backend(
    trainings: TrainingRuns, monkeypatch: pytest.MonkeyPatch, precision: str, tolerance: float
) -> None:
    on_cpu = replace(neuron_native.DEVICE, torch_device="cpu", process_group_backend="gloo")
    monkeypatch.setattr(neuron_native, "DEVICE", on_cpu)
    tokens = trainings.tokens("rows", counting_rows(18))
    losses = {}
    for name, backend in BACKENDS.items():
        run = trainings.new_run(
            tokens=tokens,
            batch=ALONE,
            recipe={"backend": backend},
            precision=precision,
            logging_steps=1,
            eval_steps=None,
        )
        losses[name] = losses_of(run)
    assert len(losses["cpu"]) == 12
    assert losses["neuron_native"] == pytest.approx(losses["cpu"], abs=tolerance)
    assert losses["cpu"][0] - losses["cpu"][-1] > 10 * tolerance


def losses_of(run: Run) -> list[float]:
    """Train as a single rank that torchrun started; on a device, each NeuronCore is a rank."""
    run_worker("train", run)
    trained = open_artifact(run.store, look_up_output(run, run.read_spec(), "train").location)
    assert trained is not None
    return [json.loads(line)["loss"] for line in trained.read("metrics.jsonl").decode().splitlines()]
