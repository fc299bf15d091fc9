"""`airsmith plan` prints pods, memory and cost of a run, and "unknown" for missing values."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from airsmith.errors import AirsmithError
from airsmith.pipeline.preview import preview_run
from airsmith.settings import BackendSettings, Settings
from airsmith.terminal.plan import print_preview
from tests.support.model_configs import LLAMA_8B
from tests.support.repository import REPOSITORY

RECIPES = REPOSITORY / "dags" / "recipes"
CONFIG = {**LLAMA_8B, "dtype": LLAMA_8B["torch_dtype"]}
"""With the newer name of the key as well."""


@pytest.fixture
def print_plan(tmp_path: Path):
    def print_plan(hours: float | None = None, timeout_seconds: float | None = None, **sections: object) -> str:
        recipe, config = tmp_path / "big.yaml", tmp_path / "config.json"
        content = {
            "model": {"id": "meta-llama/Llama-3.1-8B"},
            "dataset": {"id": "a/b", "validation_fraction": 0.1},
            "training": {"precision": "bfloat16", "max_per_device_train_batch_size": 1},
        }
        recipe.write_text(yaml.safe_dump({**content, **sections}))
        config.write_text(json.dumps(CONFIG))
        limits = {"cuda": BackendSettings(timeout_seconds=timeout_seconds)}
        settings = Settings(store=f"file://{tmp_path}/store", backends=limits)
        console = Console(width=200, file=io.StringIO(), record=True)
        print_preview(preview_run(recipe, settings, config), console, hours)
        return console.export_text()

    return print_plan


def test_pods_memory_and_cost_are_printed(print_plan):
    backend = {"name": "cuda", "devices": 4, "instance_type": "p5.48xlarge"}
    text = print_plan(hours=3, timeout_seconds=7200, backend=backend)
    assert "4 × nvidia.com/gpu" in text
    assert "training 41.9 of 8,030.3 million parameters" in text
    assert "of the 79.6 GiB of a device of p5.48xlarge: fits." in text
    assert "55.04 USD per hour of training, on 1 × p5.48xlarge (4 of 8 devices)." in text
    assert "165.12 USD for 3 h of training." in text
    assert "At most 110.08 USD per attempt: the settings' timeout is 2 h." in text
    assert "AWS on-demand, Linux, us-east-1, 2026-01-19: https://" in text


def test_several_nodes_are_printed_with_their_job_kind_and_total_price(print_plan):
    one, four = (
        print_plan(backend={"name": "cuda", "instance_type": "p5.48xlarge", "nodes": nodes}) for nodes in (1, 4)
    )
    assert "train, 4 pods of a jobset" in four
    assert "220.16 USD per hour of training, on 4 × p5.48xlarge" in four
    assert "pods of" not in one


TRN1 = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
ON_TRN1 = """
training 41.9 of 8,030.3 million parameters  GiB per core
weights                                              1.90
gradients                                            0.09
AdamW                                                0.04
activations of 1 × 2048 tokens                       0.15
logits                                               0.43
total with driver and allocator overhead             2.82
Memory: 2.82 of the 16.0 GiB of a core of trn1.32xlarge: fits.
Cost: 21.50 USD per hour of training, on 1 × trn1.32xlarge.
"""


def test_memory_on_trainium_is_printed_per_core(print_plan):
    checkpointed = {"precision": "bfloat16", "max_per_device_train_batch_size": 1, "gradient_checkpointing": True}
    text = print_plan(backend=TRN1, training=checkpointed)
    assert "16 × aws.amazon.com/neuron" in text
    assert "Processes: 32, one per core: tensor parallel 8 × pipeline parallel 1 × data parallel 4." in text
    assert ON_TRN1 in "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    assert "Note:" not in text
    short = {"id": "a/b", "validation_fraction": 0.1, "max_length": 1024}
    assert "Note: Rows of 1024 tokens" in print_plan(backend=TRN1, training=checkpointed, dataset=short)


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("llama3-8b-dolly-*.yaml")), ids=lambda recipe: recipe.stem)
def test_shipped_recipes_are_printed_with_and_without_a_config(
    recipe: Path, has_config: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("airsmith.hub.TIMEOUT_SECONDS", 0.1)
    settings = Settings(store=f"file://{tmp_path}/store", hub_endpoint="http://127.0.0.1:9")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    console = Console(width=200, file=io.StringIO(), record=True)
    print_preview(preview_run(recipe, settings, config if has_config else None), console)
    text = console.export_text()
    assert ("fits." in text) == has_config
    assert ("Memory: unknown." in text) != has_config
    assert all(f"\n{stage} " in text for stage in ("tokenize", "train", "merge", "evaluate", "deploy"))
    assert "Cost: " in text


def test_a_model_that_cannot_be_sharded_is_refused(print_plan):
    whole = {"name": "neuron_xla", "instance_type": "trn2.48xlarge", "devices": 16, "tensor_parallel_size": 64}
    with pytest.raises(AirsmithError, match="num_attention_heads 32 does not divide by 64"):
        print_plan(backend=whole, serve={"enabled": False})


def test_insufficient_memory_is_printed_with_a_remedy(print_plan):
    assert "does not fit. Lower" in print_plan(backend={"name": "cuda", "instance_type": "g5.8xlarge"})
    assert "does not fit. Raise backend.resources.memory" in print_plan()


def test_unknown_memory_and_price_are_printed_as_unknown(print_plan):
    text = print_plan(backend={"name": "rocm", "instance_type": "mars.9xlarge"})
    assert "the memory of a device of mars.9xlarge is unknown" in text
    assert "Cost: unknown for mars.9xlarge." in text
    assert "No instance type in the price list fits" in print_plan(backend={"name": "cuda", "devices": 32})
