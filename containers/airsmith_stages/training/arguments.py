"""Maps a recipe to transformers' `TrainingArguments`."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from airsmith.contracts.spec import RunSpec
from airsmith_stages.devices import Device


def training_arguments(spec: RunSpec, device: Device, output_dir: Path) -> TrainingArguments:
    """The Trainer's arguments. Reports, the Hub and local checkpoints are disabled."""
    training = spec.recipe.training
    batch = spec.plan.batch
    return TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=batch.per_device_train_batch_size,
        per_device_eval_batch_size=batch.per_device_train_batch_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
        num_train_epochs=training.epochs or 1.0,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        activation_checkpointing=training.gradient_checkpointing,
        logging_steps=training.logging_steps,
        save_strategy="steps",
        save_steps=training.save_steps,
        eval_strategy="no" if training.eval_steps is None else "steps",
        eval_steps=training.eval_steps,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
        **device.training_arguments(spec.recipe),
    )
