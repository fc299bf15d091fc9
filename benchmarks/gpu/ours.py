"""The stage's trainer with a model that is already on the device."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith_stages.data.token_shards import TokenRows
from airsmith_stages.devices import get_device
from airsmith_stages.training.arguments import training_arguments
from airsmith_stages.training.checkpoints import Checkpoints, CheckpointUploader
from airsmith_stages.training.distributed import SINGLE_PROCESS
from airsmith_stages.training.flops import TrainingFlops, count_flops_per_token
from airsmith_stages.training.inputs import TrainingInputs
from airsmith_stages.training.interruption import Interruption
from airsmith_stages.training.lora import add_lora
from airsmith_stages.training.loss import chunk_loss
from airsmith_stages.training.model import trainable_parameters
from airsmith_stages.training.progress import ProgressWriter
from airsmith_stages.training.rows import Collator, RowDataset
from airsmith_stages.training.snapshot import WholeSnapshots
from airsmith_stages.training.trainer import ResumableTrainer, TrainerContext
from benchmarks.gpu.cases import Case


def trainer_of(
    base: PreTrainedModel, rows: Any, case: Case, steps: int, folder: Path, clock: TrainerCallback
) -> ResumableTrainer:
    """The stage's trainer without the rest of the stage."""
    spec = _spec(case, steps)
    device = get_device(spec.recipe.backend.name)
    device.prepare()
    module = base.float().requires_grad_(True) if case.method == "full" else add_lora(base, spec.recipe)
    for _, parameter in trainable_parameters(module):
        parameter.data = parameter.data.float()
    if not device.fuses_loss():
        chunk_loss(base)
    inputs = _inputs(rows, case)
    store = Store.open(f"file://{folder}/store")
    training_flops = TrainingFlops(
        count_flops_per_token(module, base, inputs.train.sample_lengths()),
        device.peak_flops_per_second(spec.recipe.training.precision),
    )
    context = TrainerContext(
        uploader=CheckpointUploader(Checkpoints(store, "benchmark", {}, {}), 1),
        progress=ProgressWriter(Run(store, "runs/benchmark/gpu")),
        interruption=Interruption(),
        distributed=SINGLE_PROCESS,
        snapshots=WholeSnapshots(module, SINGLE_PROCESS),
        is_sharded=False,
        stop_at_step=None,
        training_flops=training_flops,
        peak_memory_bytes=device.peak_memory_bytes,
    )
    arguments = training_arguments(spec, device, folder / "trainer")
    trainer = ResumableTrainer(module, arguments, spec.recipe.training, inputs, context)
    trainer.add_callback(clock)
    return trainer


def _spec(case: Case, steps: int) -> RunSpec:
    import torch

    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "model": {"id": "benchmark/model"},
            "dataset": {"id": "benchmark/rows", "validation_fraction": 0.1, "max_length": case.length},
            "method": {"r": 16, "lora_alpha": 32} if case.method == "lora" else {"name": "full"},
            "training": {
                "max_steps": steps, "total_train_batch_size": case.batch, "logging_steps": 1, "warmup_ratio": 0.0,
                "max_per_device_train_batch_size": case.batch, "learning_rate": 2e-4, "precision": "bfloat16",
                "gradient_checkpointing": case.checkpointing, "save_steps": 10 * steps,
            },
            "backend": {"name": "cuda" if torch.cuda.is_available() else "cpu"},
        }
    )  # fmt: skip
    return RunSpec(
        dag_id="benchmark", run_id="gpu", recipe=recipe, recipe_file="benchmark.yaml", recipe_digest="0" * 64,
        plan=make_plan(recipe), airsmith_version="0", created_at=datetime.now(timezone.utc),
    )  # fmt: skip


def _inputs(rows: Any, case: Case) -> TrainingInputs:
    """The rows as the stage reads them: without padding, or with several samples per row."""
    samples = [row[:length] for row, length in zip(rows.tokens, rows.lengths, strict=True)]
    layout = _packed(samples, case.length) if case.packed else [[sample] for sample in samples]
    tokens = np.concatenate([sample for row in layout for sample in row]).astype(np.uint32)
    offsets = np.cumsum([0, *(sum(len(sample) for sample in row) for row in layout)]).astype(np.int64)
    starts = np.cumsum([0, *(len(sample) for row in layout for sample in row)]).astype(np.int64)
    mask = np.ones(len(tokens), np.uint8)
    train = RowDataset(TokenRows(tokens=tokens, offsets=offsets, loss_mask=mask, sample_offsets=starts))
    packing = "isolated" if case.packed else "none"
    return TrainingInputs(train, None, Collator(0, isolate_samples=case.packed), packing)


def _packed(samples: list[Any], length: int) -> list[list[Any]]:
    """Pack samples into rows, first fit."""
    layout: list[list[Any]] = []
    for sample in samples:
        row = next((row for row in layout if sum(map(len, row)) + len(sample) <= length), None)
        if row is None:
            layout.append([sample])
        else:
            row.append(sample)
    return layout
