"""Stage `consolidate` after a training on Neuron, from store to store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file
from transformers import AutoModelForCausalLM

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.run import Run
from airsmith.contracts.spec import ParallelPlan
from airsmith.contracts.stages import END_TOKENS, PIPELINE_PARALLEL, SHARDS, TENSOR_PARALLEL
from airsmith_stages.stage_runner import run_stage
from tests.support.neuron_adapters import GATE_UP, QKV, Case, ShardedAdapters, assert_equal_tensors, expected_tensors
from tests.support.neuron_models import ALL_PROJECTIONS, Split, consolidate_with_library
from tests.support.neuron_training_runs import NeuronTrainingRuns, train_in_process, trained_artifact
from tests.support.stage_runs import point_to


def consolidated(run: Run) -> Artifact:
    """Run the stage and open its output."""
    pointer = run_stage("consolidate", run)
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    assert artifact.type == pointer.type
    return artifact


def test_shards_become_an_adapter_and_other_files_are_copied(trainings: NeuronTrainingRuns, tmp_path: Path) -> None:
    case = Case("llama", Split(4), (GATE_UP, QKV))
    adapters = ShardedAdapters(tmp_path / "peers")
    shards = adapters.shards(case)
    run = trainings.neuron_run(parallel=ParallelPlan(tensor=4, processes_per_node=4))
    sizes = {SHARDS: "4", TENSOR_PARALLEL: "4", PIPELINE_PARALLEL: "1"}
    with write_artifact(
        trainings.store, "artifacts/adapter_shards/a", type="adapter_shards", digest="a", inputs={}, versions={}
    ) as writer:
        writer.add_folder(shards)
        writer.add_bytes("metrics.jsonl", b"{}\n")
        trained = writer.publish(
            metrics={"steps": 7}, properties={END_TOKENS: "[2]", "resume": "warm_restart", **sizes}
        )
    point_to(run, "train", trained)

    adapter = consolidated(run)
    assert adapter.type == "adapter"
    assert sorted(adapter.names()) == ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"]
    assert adapter.manifest.properties == {END_TOKENS: "[2]", "resume": "warm_restart"}
    assert adapter.manifest.metrics == {"steps": 7, "replica_spread": 0.0}
    assert_equal_tensors(
        load(adapter.read("adapter_model.safetensors")), expected_tensors(adapters.adapter(case), case.fused)
    )
    config = json.loads(adapter.read("adapter_config.json"))
    assert config["target_modules"] == sorted(ALL_PROJECTIONS)
    assert config["inference_mode"]
    assert config == json.loads((shards / "adapter_config.json").read_text()) | {
        "target_modules": config["target_modules"]
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_output_of_a_training_is_consolidated(trainings: NeuronTrainingRuns, tmp_path: Path, method: str) -> None:
    lora = {"name": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "gate_proj", "up_proj"]}
    run = trainings.neuron_run(method=lora if method == "lora" else {"name": "full"}, max_steps=2, save_steps=2)
    train_in_process(run)
    trained = trained_artifact(run)
    point_to(run, "train", trained)
    whole = consolidated(run)
    whole.download(tmp_path / "whole")
    trained.download(tmp_path / "adapter_default" if method == "lora" else tmp_path / "trained")
    assert whole.type == ("adapter" if method == "lora" else "model")
    assert "metrics.jsonl" in whole.names()
    assert not [name for name in whole.names() if "shards" in name or "done" in name]
    file = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    if method == "full":
        consolidate_with_library(tmp_path / "trained", tmp_path / "expected")
        assert_equal_tensors(load_file(tmp_path / "whole" / file), load_file(tmp_path / "expected" / file))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    else:
        projections = {name.split(".")[-3] for name in load_file(tmp_path / "whole" / file)}
        assert projections == {"q_proj", "v_proj", "gate_proj", "up_proj"}
