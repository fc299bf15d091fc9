"""Runs that train a tiny Llama on generated rows, with a real store and real artifacts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan
from airsmith.contracts.stages import END_TOKENS, STAGES, TOKENIZER
from airsmith.recipe import Recipe
from tests.support.stage_runs import output_of, point_to, write_run

TRAIN_COMMAND = [sys.executable, "-m", "airsmith_stages.cli", "train", "--run"]
VOCABULARY_SIZE = 64
PAD_TOKEN = 0
LORA = {"name": "lora", "r": 4, "lora_alpha": 8}
SHORT_TRAINING = {
    "max_steps": 12,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "warmup_ratio": 0.0,
    "logging_steps": 2,
    "save_steps": 4,
    "eval_steps": 4,
}
# Windows of the history, validations, checkpoints and epochs all start at different steps.
STAGGERED_TRAINING = {
    "max_steps": 23,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 2,
    "logging_steps": 3,
    "eval_steps": 2,
    "save_steps": 4,
    "load_best_model_at_end": True,
    "early_stopping_patience": 9,
    "lr_scheduler_type": "cosine",
}

Rows = Sequence[Sequence[Sequence[int]]]
"""Rows of samples of tokens."""


class TrainingRuns:
    """Publishes tiny base models and tokens in its own store, and creates runs on them.

    :ivar folder: holds the store and local copies of the base models.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(f"file://{folder}/store")

    def new_run(
        self,
        *,
        tokens: Artifact,
        base: Artifact | None = None,
        method: Mapping[str, Any] | None = None,
        batch: BatchPlan | None = None,
        recipe: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> Run:
        """Create a run whose upstream stages are done.

        :param training: replaces fields of `SHORT_TRAINING`.
        """
        resolved = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama"},
                "dataset": {"id": "tests/rows", "validation_fraction": 0.1},
                "method": {**LORA, **(method or {})} if (method or {}).get("name") != "full" else method,
                "training": {**SHORT_TRAINING, **training},
                **(recipe or {}),
            }
        )
        run = write_run(self.store, resolved, toolchains={"train": STAGES["train"].toolchain}, batch=batch)
        point_to(run, "mirror_model", base or self.base_model())
        point_to(run, "tokenize", tokens)
        return run

    def staggered_run(self, method: Mapping[str, Any] | None = None) -> Run:
        """Create a run of `STAGGERED_TRAINING`, with dropout unless a method is given."""
        tokens = self.tokens("rows", counting_rows(18), validation=counting_rows(5))
        return self.new_run(tokens=tokens, method=method or {"lora_dropout": 0.1}, **STAGGERED_TRAINING)

    def base_model(self, name: str = "tiny", **config: Any) -> Artifact:
        """Publish a tiny Llama with random weights, unless one of this name exists."""
        found = open_artifact(self.store, f"artifacts/base_model/{name}")
        if found is not None:
            return found
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, set_seed

        set_seed(7)
        dtype = getattr(torch, config.pop("dtype", "float32"))
        shape = {
            "vocab_size": VOCABULARY_SIZE,
            "max_position_embeddings": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        model = LlamaForCausalLM(LlamaConfig(pad_token_id=0, **{**shape, **config}))
        folder = self.folder / f"base-{name}"
        model.to(dtype).save_pretrained(folder)
        (folder / "tokenizer.json").write_text("{}")
        with write_artifact(
            self.store, f"artifacts/base_model/{name}", type="base_model", digest=f"base-{name}", inputs={}, versions={}
        ) as writer:
            writer.add_folder(folder)
            return writer.publish(properties={TOKENIZER: "tokenizer-of-base"})

    def tokens(self, name: str, train: Rows, validation: Rows | None = None, packing: str = "none") -> Artifact:
        """Publish rows as a tokens artifact."""
        from airsmith_stages.data.token_shards import write_split

        with write_artifact(
            self.store, f"artifacts/tokens/{name}", type="tokens", digest=f"tokens-{name}", inputs={}, versions={}
        ) as writer:
            splits = {}
            for split, rows in (("train", train), ("validation", train if validation is None else validation)):
                samples, layout = _samples_of(rows)
                splits[split] = write_split(split, samples, lambda lengths, window, layout=layout: layout, writer)
            index = {
                "format": 1, "max_length": 64, "packing": packing, "pad_token_id": PAD_TOKEN,
                "end_of_turn_token_ids": [1], "vocab_size": VOCABULARY_SIZE, "splits": splits, "report": {},
            }  # fmt: skip
            writer.add_bytes("index.json", json.dumps(index).encode())
            return writer.publish(properties={END_TOKENS: "[1]"})


def _samples_of(rows: Rows) -> tuple[list[Any], list[list[int]]]:
    """Return the samples of all rows, and each row as indices of its samples."""
    import numpy as np

    from airsmith_stages.data.overflow import Sample

    samples = [Sample(np.array(sample, np.uint32), loss_mask(sample)) for row in rows for sample in row]
    numbers = iter(range(len(samples)))
    return samples, [[next(numbers) for _ in row] for row in rows]


def loss_mask(sample: Sequence[int]) -> Any:
    """Mask the first third of a sample, its prompt."""
    import numpy as np

    mask = np.ones(len(sample), dtype=np.uint8)
    mask[: max(1, len(sample) // 3)] = 0
    return mask


def counting_rows(rows: int, lengths: Callable[[int], int] = lambda row: 6 + row % 7) -> list[list[list[int]]]:
    """Make rows of different lengths that count up from different numbers, which a model learns easily."""
    return [[[2 + (3 * row + step) % (VOCABULARY_SIZE - 2) for step in range(lengths(row))]] for row in range(rows)]


def trained_tensors(run: Run) -> dict[str, bytes]:
    """Read the bytes of all tensors of a trained adapter."""
    from safetensors.numpy import load

    content = output_of(run, "train").read("adapter_model.safetensors")
    return {name: tensor.tobytes() for name, tensor in load(content).items()}


def history_of(run: Run) -> list[dict[str, Any]]:
    """Read the artifact's history without the columns that depend on the clock."""
    lines = output_of(run, "train").read("metrics.jsonl").decode().splitlines()
    return [without_clock_columns(json.loads(line)) for line in lines]


def without_clock_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Drop the columns of a history row that depend on the clock."""
    from airsmith_stages.training.history import CLOCK_COLUMNS

    return {name: value for name, value in row.items() if name not in CLOCK_COLUMNS}


def checkpoint_steps(store: Store) -> list[int]:
    """List the steps of the complete checkpoints."""
    paths = (info.path.split("/") for info in store.list("checkpoints"))
    return sorted(int(parts[2]) for parts in paths if parts[-1] == "manifest.json")


@contextmanager
def nan_weight_at(call: int) -> Iterator[None]:
    """Set a weight to NaN at a call of the training step, as a faulty device would."""
    from airsmith_stages.training.trainer import ResumableTrainer

    original, calls = ResumableTrainer.training_step, 0

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            next(parameter for parameter in model.parameters() if parameter.requires_grad).data[0, 0] = float("nan")
        return original(self, model, *args, **kwargs)

    ResumableTrainer.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        ResumableTrainer.training_step = original  # type: ignore[method-assign]
