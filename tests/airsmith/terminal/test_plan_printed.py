"""`airsmith plan` says what a person needs to know before a run, and "unknown" where it does not know."""

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

RECIPES = Path(__file__).parents[3] / "dags" / "recipes"
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path):
    def plan(hours: float | None = None, timeout_seconds: float | None = None, **sections: object) -> str:
        recipe, config = tmp_path / "big.yaml", tmp_path / "config.json"
        content = {
            "model": {"id": "meta-llama/Llama-3.1-8B"},
            "dataset": {"id": "a/b", "validation_fraction": 0.1},
            "training": {"precision": "bfloat16", "max_per_device_train_batch_size": 1},
        }
        recipe.write_text(yaml.safe_dump({**content, **sections}))
        config.write_text(json.dumps(LLAMA_8B))
        limits = {"cuda": BackendSettings(timeout_seconds=timeout_seconds)}
        settings = Settings(store=f"file://{tmp_path}/store", backends=limits)
        console = Console(width=200, file=io.StringIO(), record=True)
        print_preview(preview_run(recipe, settings, config), console, hours)
        return console.export_text()

    return plan


def test_pods_memory_and_cost_are_told(plan):
    backend = {"name": "cuda", "devices": 4, "instance_type": "p5.48xlarge"}
    said = plan(hours=3, timeout_seconds=7200, backend=backend)
    assert "4 × nvidia.com/gpu" in said
    assert "training 41.9 of 8,030.3 million parameters" in said
    assert "of the 79.6 GiB of a device of p5.48xlarge: fits." in said
    assert "55.04 USD for each hour of training, on 1 × p5.48xlarge (4 of its 8 devices)." in said
    assert "165.12 USD for 3 h of training." in said
    assert "At most 110.08 USD per try: the settings end it after 2 h." in said
    assert "AWS on-demand, Linux, us-east-1, 2026-01-19: https://" in said


def test_several_nodes_are_told_with_what_starts_them_and_priced_together(plan):
    one, four = (plan(backend={"name": "cuda", "instance_type": "p5.48xlarge", "nodes": nodes}) for nodes in (1, 4))
    assert "train, 4 pods of a jobset" in four
    assert "220.16 USD for each hour of training, on 4 × p5.48xlarge" in four
    assert "pods of" not in one


TRN1 = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
ON_TRN1 = """
training 41.9 of 8,030.3 million parameters  GiB per core
weights                                              1.90
gradients                                            0.09
AdamW                                                0.04
activations of 1 × 2048 tokens                       0.15
logits                                               0.43
with the driver's and the allocator's share          2.82
Memory: 2.82 of the 16.0 GiB of a core of trn1.32xlarge: fits.
Cost: 21.50 USD for each hour of training, on 1 × trn1.32xlarge.
"""


def test_a_training_on_trainium_is_told_by_its_cores(plan):
    checkpointed = {"precision": "bfloat16", "max_per_device_train_batch_size": 1, "gradient_checkpointing": True}
    said = plan(backend=TRN1, training=checkpointed)
    assert "16 × aws.amazon.com/neuron" in said
    assert "Processes: 32, one on each core: tensor parallel 8 × pipeline parallel 1 × data parallel 4." in said
    assert ON_TRN1 in "\n".join(line.rstrip() for line in said.splitlines()) + "\n"
    assert "Note:" not in said
    short = {"id": "a/b", "validation_fraction": 0.1, "max_length": 1024}
    assert "Note: Rows of 1024 tokens" in plan(backend=TRN1, training=checkpointed, dataset=short)


@pytest.mark.parametrize("knows_the_model", [True, False])
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("llama3-8b-dolly-*.yaml")), ids=lambda recipe: recipe.stem)
def test_the_known_cases_are_told_with_and_without_their_model(
    recipe: Path, knows_the_model: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("airsmith.hub.TIMEOUT_SECONDS", 0.1)
    settings = Settings(store=f"file://{tmp_path}/store", hub_endpoint="http://127.0.0.1:9")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA_8B))
    console = Console(width=200, file=io.StringIO(), record=True)
    print_preview(preview_run(recipe, settings, config if knows_the_model else None), console)
    said = console.export_text()
    assert ("fits." in said) == knows_the_model
    assert ("Memory: unknown." in said) != knows_the_model
    assert all(f"\n{stage} " in said for stage in ("tokenize", "train", "merge", "evaluate", "deploy"))
    assert "Cost: " in said


def test_a_model_that_the_cores_cannot_share_is_refused(plan):
    whole = {"name": "neuron_xla", "instance_type": "trn2.48xlarge", "devices": 16, "tensor_parallel_size": 64}
    with pytest.raises(AirsmithError, match="num_attention_heads 32 does not divide by 64"):
        plan(backend=whole, serve={"enabled": False})


def test_what_does_not_fit_says_what_helps(plan):
    assert "does not fit. Lower" in plan(backend={"name": "cuda", "instance_type": "g5.8xlarge"})
    assert "does not fit. Raise backend.resources.memory" in plan()


def test_what_is_unknown_is_called_so(plan):
    said = plan(backend={"name": "rocm", "instance_type": "mars.9xlarge"})
    assert "that of a device of mars.9xlarge is unknown" in said
    assert "Cost: unknown for mars.9xlarge." in said
    assert "No instance type of the table fits" in plan(backend={"name": "cuda", "devices": 32})
