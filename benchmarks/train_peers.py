"""Other implementations of LoRA training: `python -m benchmarks.train_peers PEER FOLDER`.

Both peers train on the same rows in the same order, with the same model, seed, optimizer and data type. They write
their losses and the tokens per second of all steps to `FOLDER/PEER.json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Sampler, SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from benchmarks.train_facts import BATCH, LEARNING_RATE, LENGTH, SEED, STEPS

ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": BATCH, "max_steps": STEPS, "learning_rate": LEARNING_RATE, "logging_steps": 1,
    "lr_scheduler_type": "linear", "optim": "adamw_torch_fused", "save_strategy": "no", "report_to": "none",
    "use_cpu": True, "seed": SEED, "dataloader_pin_memory": False, "disable_tqdm": True, "bf16": False,
}  # fmt: skip


class Clock(TrainerCallback):
    """Measures the time from the start of the first step to the end of the last one."""

    seconds = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock at the first step."""
        self._start = getattr(self, "_start", time.perf_counter())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self.seconds = time.perf_counter() - self._start


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The rows, in training order."""

    def __init__(self, file: Path) -> None:
        self._rows = torch.from_numpy(np.load(file).astype(np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


def main() -> None:
    """Train, and write the results."""
    peer, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    set_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
    clock = Clock()
    trainer = {"trainer": _trainer, "trl": _trl}[peer](model, folder, clock)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    facts = {"losses": losses, "tokens_per_second": STEPS * BATCH * LENGTH / clock.seconds}
    (folder / f"{peer}.json").write_text(json.dumps(facts))


def _lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")


def _in_order(cls: type[Trainer]) -> type[Trainer]:
    class InOrder(cls):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *args: Any) -> Sampler[Any]:
            return SequentialSampler(self.train_dataset)

    return InOrder


def _trainer(model: Any, folder: Path, clock: Clock) -> Trainer:
    return _in_order(Trainer)(
        get_peft_model(model, _lora()),
        TrainingArguments(output_dir=str(folder / "out"), **ARGUMENTS),
        train_dataset=Rows(folder / "rows.npy"),
        callbacks=[clock],
    )


def _trl(model: Any, folder: Path, clock: Clock) -> Trainer:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    config = SFTConfig(
        output_dir=str(folder / "out"), max_length=LENGTH, gradient_checkpointing=False, packing=False, **ARGUMENTS
    )
    rows = Dataset.from_dict({"input_ids": np.load(folder / "rows.npy").astype(np.int64).tolist()})
    return _in_order(SFTTrainer)(
        model, args=config, train_dataset=rows, peft_config=_lora(), processing_class=tokenizer, callbacks=[clock]
    )


if __name__ == "__main__":
    main()
