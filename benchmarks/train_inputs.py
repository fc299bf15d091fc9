"""Inputs of the training benchmark: `python -m benchmarks.train_inputs FOLDER`.

Writes a Llama with 35 million random weights, and rows of random tokens: for the stage, and in the stage's order for
its peers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.stages import END_TOKENS, TOKENIZER
from airsmith_stages.data.overflow import Sample
from airsmith_stages.data.token_shards import write_split
from airsmith_stages.training.sampler import SeededBatchSampler
from benchmarks.stage_runs import give, write_spec
from benchmarks.train_facts import BATCH, LENGTH, SEED, STEPS, VOCABULARY

ROWS = STEPS * BATCH


def main() -> None:
    """Write the model, the rows and the run's spec."""
    folder = Path(sys.argv[1])
    set_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text("{}")
    rows = np.random.default_rng(SEED).integers(0, VOCABULARY, (ROWS, LENGTH), dtype=np.uint32)
    taken = [row for batch in SeededBatchSampler(np.full(ROWS, LENGTH), BATCH, BATCH, SEED) for row in batch]
    np.save(folder / "rows.npy", rows[taken])
    run = Run(Store.open(f"file://{folder}/store"), "runs/benchmark/train")
    training = {
        "max_steps": STEPS, "total_train_batch_size": BATCH, "max_per_device_train_batch_size": BATCH, "seed": SEED,
        "logging_steps": 1, "save_steps": STEPS, "warmup_ratio": 0.0,
    }  # fmt: skip
    dataset = {"id": "benchmark/rows", "validation_fraction": 0.1, "max_length": LENGTH}
    write_spec(run, "train", {"id": "benchmark/model"}, dataset, method={"r": 16, "lora_alpha": 32}, training=training)
    give(run, "mirror_model", _base(run, folder / "model"))
    give(run, "tokenize", _tokens(run, rows))


def _base(run: Run, folder: Path) -> Artifact:
    with write_artifact(
        run.store, "artifacts/base_model/benchmark", type="base_model", digest="base", inputs={}, versions={}
    ) as writer:
        writer.add_folder(folder)
        return writer.publish(properties={TOKENIZER: "benchmark"})


def _tokens(run: Run, rows: np.ndarray) -> Artifact:
    samples = [Sample(row, np.ones(LENGTH, np.uint8)) for row in rows]
    with write_artifact(
        run.store, "artifacts/tokens/benchmark", type="tokens", digest="tokens", inputs={}, versions={}
    ) as writer:
        splits = {
            split: write_split(split, samples, lambda lengths, window: [[n] for n in range(ROWS)], writer)
            for split in ("train", "validation")
        }
        index = {
            "format": 1, "max_length": LENGTH, "packing": "none", "pad_token_id": 0, "end_of_turn_token_ids": [1],
            "vocab_size": VOCABULARY, "splits": splits, "report": {},
        }  # fmt: skip
        writer.add_bytes("index.json", json.dumps(index).encode())
        return writer.publish(properties={END_TOKENS: "[1]"})


if __name__ == "__main__":
    main()
