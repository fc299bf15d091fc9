"""The loss depends on the examples alone, not on batch size, padding or packing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan
from airsmith_stages.stage_runner import run_stage
from airsmith_stages.training.trainer import ResumableTrainer
from tests.support import training_runs
from tests.support.stage_runs import output_of
from tests.support.training_runs import TrainingRuns, counting_rows, history_of, loss_mask, trained_tensors

EVERY_STEP = {"logging_steps": 1, "eval_steps": None, "save_steps": 1000}


def losses_of(run: Run) -> list[float]:
    run_stage("train", run)
    return [row["loss"] for row in history_of(run) if "loss" in row]


def assert_same_weights(one: Run, other: Run, tolerance: float) -> None:
    first, second = (load(output_of(run, "train").read("adapter_model.safetensors")) for run in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0)


def test_gradient_accumulation_equals_a_larger_batch(trainings: TrainingRuns) -> None:
    tokens = trainings.tokens("rows", counting_rows(20, lambda row: 4 + (row * 5) % 13))
    runs = [
        # The recipes differ only in their batches, so that the second run does not reuse the first's result.
        trainings.new_run(tokens=tokens, batch=BatchPlan(
            per_device_train_batch_size=rows, gradient_accumulation_steps=8 // rows, data_parallel_size=1
        ), max_steps=8, total_train_batch_size=8, max_per_device_train_batch_size=rows, **EVERY_STEP)
        for rows in (1, 8)
    ]  # fmt: skip
    losses = [losses_of(run) for run in runs]
    # With 20 rows, every third step is the last of an epoch, with 4 rows.
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert_same_weights(*runs, tolerance=1e-5)


def test_padding_does_not_affect_the_loss(trainings: TrainingRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = counting_rows(12, lambda row: 4 + (row * 5) % 13)
    run = trainings.new_run(tokens=trainings.tokens("zeros", rows), max_steps=4, **EVERY_STEP)
    with_zeros = losses_of(run)
    monkeypatch.setattr(training_runs, "PAD_TOKEN", 33)
    other = trainings.new_run(tokens=trainings.tokens("others", rows), max_steps=4, **EVERY_STEP)
    assert losses_of(other) == with_zeros
    assert trained_tensors(other) == trained_tensors(run)


def test_isolated_samples_of_a_row_do_not_attend_to_each_other(trainings: TrainingRuns) -> None:
    samples = [row[0] for row in counting_rows(6, lambda row: 5 + row)]
    packed = [[samples[0], samples[3], samples[5]], [samples[1], samples[2], samples[4]]]
    alone = trainings.new_run(
        tokens=trainings.tokens("alone", [[sample] for sample in samples]),
        total_train_batch_size=6,
        max_per_device_train_batch_size=6,
        max_steps=6,
        **EVERY_STEP,
    )
    isolated, across = (
        trainings.new_run(
            tokens=trainings.tokens(packing, packed, packing=packing),
            total_train_batch_size=2,
            max_steps=6,
            **EVERY_STEP,
        )
        for packing in ("isolated", "across_samples")
    )
    losses = losses_of(alone)
    assert losses_of(isolated) == pytest.approx(losses, abs=1e-5)
    assert_same_weights(alone, isolated, tolerance=1e-5)
    assert losses_of(across)[0] != pytest.approx(losses[0], abs=1e-5)


def test_a_row_of_max_length_is_not_truncated(trainings: TrainingRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*counting_rows(3), [[2 + step % 60 for step in range(64)]]]
    seen = []

    def watched(self: Any, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        seen.extend(row[mask.bool()].tolist() for row, mask in pairs)
        return original(self, model, inputs, *args, **kwargs)

    original = ResumableTrainer.training_step
    monkeypatch.setattr(ResumableTrainer, "training_step", watched)
    run_stage("train", trainings.new_run(tokens=trainings.tokens("rows", rows), max_steps=3, **EVERY_STEP))
    assert len(seen) == 12
    for row in rows:
        assert seen.count(row[0]) == 3


def test_the_validation_loss_is_the_mean_over_labels(trainings: TrainingRuns) -> None:
    """The lengths of the rows differ so much that a mean over batches or rows would differ."""
    validation = counting_rows(5, lambda row: 4 + row * 12)
    tokens = trainings.tokens("rows", counting_rows(8), validation=validation)
    run = trainings.new_run(tokens=tokens, max_steps=4, total_train_batch_size=2, max_per_device_train_batch_size=2,
                    **{**EVERY_STEP, "eval_steps": 4})  # fmt: skip
    run_stage("train", run)
    model = tuned_model(trainings, run)
    logits = [model(input_ids=torch.tensor(row)).logits[0, :-1] for row in validation]
    losses = torch.cat([
        nn.functional.cross_entropy(logit, torch.tensor(row[0][1:]), reduction="none")[len(row[0]) // 3 - 1 :]
        for logit, row in zip(logits, validation, strict=True)
    ])  # fmt: skip
    expected = losses.mean().item()
    assert output_of(run, "train").manifest.metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_losses_equal_those_of_plain_transformers_and_peft(trainings: TrainingRuns) -> None:
    rows = counting_rows(200, lambda row: 4 + (row * 5) % 13)
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), max_steps=50, total_train_batch_size=4,
                    max_per_device_train_batch_size=2, lr_scheduler_type="cosine", weight_decay=0.1,
                    warmup_ratio=0.2, **EVERY_STEP)  # fmt: skip
    assert losses_of(run) == pytest.approx(plain_losses(trainings, run, [row[0] for row in rows]), abs=1e-6)


def test_warmup_steps_equal_the_same_warmup_ratio(trainings: TrainingRuns) -> None:
    tokens = trainings.tokens("rows", counting_rows(40, lambda row: 4 + row % 9))
    by_ratio, by_steps, without = (
        losses_of(trainings.new_run(tokens=tokens, max_steps=8, **EVERY_STEP, **warmup))
        for warmup in ({"warmup_ratio": 0.5}, {"warmup_ratio": None, "warmup_steps": 4}, {})
    )
    assert by_steps == by_ratio != without


def plain_losses(trainings: TrainingRuns, run: Run, rows: list[list[int]]) -> list[float]:
    """Train with transformers and peft alone."""
    import numpy as np
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    from airsmith_stages.training.sampler import SeededBatchSampler

    order = SeededBatchSampler(np.array([len(row) for row in rows]), rows_per_step=4, rows_per_batch=2, seed=42)
    dataset = [{"tokens": rows[row]} for batch in order for row in batch]

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [torch.tensor(example["tokens"]) for example in examples]
        masks = [torch.tensor(loss_mask(example["tokens"])) for example in examples]
        labels = [torch.where(mask == 1, tokens, -100) for mask, tokens in zip(masks, sequences, strict=True)]
        return {
            "input_ids": pad_sequence(sequences, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(tokens) for tokens in sequences], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    set_seed(42)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(trainings.folder / "base-tiny"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            str(trainings.folder / "plain"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=50,
            learning_rate=0.01,
            lr_scheduler_type="cosine",
            weight_decay=0.1,
            warmup_steps=10,
            logging_steps=1,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        train_dataset=dataset,  # type: ignore[arg-type]
        data_collator=collate,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def tuned_model(trainings: TrainingRuns, run: Run) -> Any:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    base = LlamaForCausalLM.from_pretrained(trainings.folder / "base-tiny")
    return PeftModel.from_pretrained(base, output_of(run, "train").download(trainings.folder / "adapter"))
