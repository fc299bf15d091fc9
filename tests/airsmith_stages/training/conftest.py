"""Trainings of a tiny Llama on made-up rows, in this process: real store, real artifacts, the stage's own code."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import stage_child

# Two test workers share two cores, and a tiny model gains nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan, RunSpec
from airsmith.contracts.stages import END_TOKENS, STAGES, TOKENIZER
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

DEADLINE_SECONDS = 600
"""After which something hangs, on whatever busy machine."""
VOCABULARY = 64
LORA = {"name": "lora", "r": 4, "lora_alpha": 8}
PAD = 0


@dataclass
class Bench:
    """A store with a tiny base model, and runs on it.

    :ivar training: the recipe's `training`, which a run may override.
    """

    store: Store
    scratch: Path
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "max_steps": 12,
            "total_train_batch_size": 4,
            "max_per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "warmup_ratio": 0.0,
            "logging_steps": 2,
            "save_steps": 4,
            "eval_steps": 4,
        }
    )
    runs: int = 0

    def run(
        self,
        *,
        tokens: Artifact,
        base: Artifact | None = None,
        method: Mapping[str, Any] | None = None,
        batch: BatchPlan | None = None,
        recipe: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> Run:
        """A run whose upstream stages are done."""
        resolved = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama"},
                "dataset": {"id": "tests/rows", "validation_fraction": 0.1},
                "method": {**LORA, **(method or {})} if (method or {}).get("name") != "full" else method,
                "training": {**self.training, **training},
                **(recipe or {}),
            }
        )
        self.runs += 1
        plan = make_plan(resolved)
        run = Run(self.store, f"runs/tests/run-{self.runs}")
        image = plan.stage("train").image
        run.write_spec(
            RunSpec(
                dag_id="tests",
                run_id=f"run-{self.runs}",
                recipe=resolved,
                recipe_file="tiny.yaml",
                recipe_digest="0" * 64,
                plan=plan if batch is None else plan.model_copy(update={"batch": batch}),
                airsmith_version="0",
                toolchains={image: {name: version(name) for name in STAGES["train"].toolchain}},
                created_at=datetime.now(timezone.utc),
            )
        )
        run.write_pointer(pointer_to("mirror_model", base or self.base()))
        run.write_pointer(pointer_to("tokenize", tokens))
        return run

    def base(self, name: str = "tiny", **config: Any) -> Artifact:
        """A tiny Llama with random weights, made once."""
        found = open_artifact(self.store, f"artifacts/base_model/{name}")
        if found is not None:
            return found
        from transformers import LlamaConfig, LlamaForCausalLM, set_seed

        set_seed(7)
        dtype = config.pop("dtype", "float32")
        shape = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        model = LlamaForCausalLM(LlamaConfig(pad_token_id=0, **{**shape, **config}))
        folder = self.scratch / f"base-{name}"
        model.to(getattr(__import__("torch"), dtype)).save_pretrained(folder)
        (folder / "tokenizer.json").write_text("{}")
        with write_artifact(
            self.store, f"artifacts/base_model/{name}", type="base_model", digest=f"base-{name}", inputs={}, versions={}
        ) as writer:
            writer.add_folder(folder)
            return writer.publish(properties={TOKENIZER: "tokenizer-of-base"})

    def tokens(
        self,
        name: str,
        train: Sequence[Sequence[Sequence[int]]],
        validation: Sequence[Sequence[Sequence[int]]] | None = None,
        packing: str = "none",
    ) -> Artifact:
        """A tokens artifact. A row is a list of samples; the first third of a sample is its prompt."""
        import numpy as np

        from airsmith_stages.data.overflow import Sample
        from airsmith_stages.data.token_shards import write_split

        def written(split: str, rows: Sequence[Sequence[Sequence[int]]]) -> dict[str, Any]:
            samples = [Sample(np.array(sample, np.uint32), loss_mask(sample)) for row in rows for sample in row]
            numbers = iter(range(len(samples)))
            layout = [[next(numbers) for _ in row] for row in rows]
            return write_split(split, samples, lambda lengths, window: layout, writer)

        with write_artifact(
            self.store, f"artifacts/tokens/{name}", type="tokens", digest=f"tokens-{name}", inputs={}, versions={}
        ) as writer:
            splits = {
                split: written(split, rows)
                for split, rows in (("train", train), ("validation", train if validation is None else validation))
            }
            index = {
                "format": 1, "max_length": 64, "packing": packing, "pad_token_id": PAD, "end_of_turn_token_ids": [1],
                "vocab_size": VOCABULARY, "splits": splits, "report": {},
            }  # fmt: skip
            writer.add_bytes("index.json", json.dumps(index).encode())
            return writer.publish(properties={END_TOKENS: "[1]"})


def pointer_to(stage: str, artifact: Artifact) -> StagePointer:
    return StagePointer(
        stage=stage,
        type=artifact.type,
        digest=artifact.digest,
        location=artifact.folder,
        properties=dict(artifact.manifest.properties),
        cached=False,
        started_at=datetime.now(timezone.utc),
        seconds=0.0,
    )


def loss_mask(sample: Sequence[int]) -> Any:
    import numpy as np

    mask = np.ones(len(sample), dtype=np.uint8)
    mask[: max(1, len(sample) // 3)] = 0
    return mask


def counting_rows(rows: int, lengths: Callable[[int], int] = lambda row: 6 + row % 7) -> list[list[list[int]]]:
    """Rows that count upwards from different numbers: easy to learn, of different lengths."""
    return [[[2 + (3 * row + step) % (VOCABULARY - 2) for step in range(lengths(row))]] for row in range(rows)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Store.open(f"file://{tmp_path}/store"), tmp_path)


@pytest.fixture
def rows() -> list[list[list[int]]]:
    return counting_rows(18)


def trained_tensors(run: Run) -> dict[str, bytes]:
    """What a finished run has trained, bit by bit."""
    from safetensors.numpy import load

    artifact = trained_artifact(run)
    return {name: tensor.tobytes() for name, tensor in load(artifact.read("adapter_model.safetensors")).items()}


def trained_artifact(run: Run) -> Artifact:
    pointer = run.pointer("train")
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


def history_of(run: Run) -> list[dict[str, Any]]:
    """The artifact's history without what depends on the clock."""
    lines = trained_artifact(run).read("metrics.jsonl").decode().splitlines()
    return [without_clock(json.loads(line)) for line in lines]


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    from airsmith_stages.training.history import CLOCK_COLUMNS

    return {name: value for name, value in row.items() if name not in CLOCK_COLUMNS}


def checkpoint_steps(store: Store) -> list[int]:
    """Steps of the complete checkpoints."""
    paths = (info.path.split("/") for info in store.list("checkpoints"))
    return sorted(int(parts[2]) for parts in paths if parts[-1] == "manifest.json")


# Windows of the history, validations, checkpoints and epochs all begin at different steps.
EVERYTHING = {
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

Train = Callable[..., tuple[int, str]]


COMMAND = [sys.executable, "-m", "airsmith_stages.cli", "train", "--run"]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run the command in a process of its own; returns its exit code and its output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(stage_child.PRELOAD)

    def run_to_end(run: Run, signal_at: tuple[str, int, int] | None = None) -> tuple[int, str]:
        log = tmp_path / "train.log"
        log.write_text("")
        process = context.Process(target=stage_child.run_train, args=(run.uri, log, signal_at))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, log.read_text()

    return run_to_end


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """What comes out when nothing happens."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = everything(Bench(Store.open(f"file://{folder}/store"), folder))
    from airsmith_stages.frame import run_stage

    run_stage("train", run)
    return trained_tensors(run), history_of(run)


def everything(bench: Bench, method: dict[str, Any] | None = None) -> Run:
    tokens = bench.tokens("rows", counting_rows(18), validation=counting_rows(5))
    return bench.run(tokens=tokens, method=method or {"lora_dropout": 0.1}, **EVERYTHING)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that happens while a process goes on."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
