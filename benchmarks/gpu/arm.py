"""Train one case with one arm: `python -m benchmarks.gpu.arm ARM CASE STEPS FACTS`.

All arms start from the same random bfloat16 weights, created on the device, and train on the same rows. The facts are
the losses, the seconds of each step by the device's clock, and the device's peak memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.gpu.cases import CASES, MODELS, TINY, Case

SEED = 42
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Clock(TrainerCallback):
    """Measures the seconds of each step; on a GPU with CUDA events, which do not synchronize."""

    def __init__(self) -> None:
        self._marks: list[Any] = []

    def _mark(self) -> None:
        if DEVICE == "cuda":
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Mark the start of the first step."""
        if not self._marks:
            self._mark()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Mark the end of each step."""
        self._mark()

    def seconds(self) -> list[float]:
        """The seconds of each step."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if DEVICE == "cuda":
            torch.cuda.synchronize()
            return [begin.elapsed_time(end) / 1000 for begin, end in pairs]
        return [end - begin for begin, end in pairs]


class Rows(Dataset[dict[str, Any]]):
    """Random rows; shorter samples are padded, for peers that do not pack."""

    def __init__(self, case: Case, rows: int) -> None:
        draw = np.random.default_rng(SEED)
        words = MODELS[case.model]["vocab_size"]
        self.tokens = draw.integers(2, words, (rows, case.length))
        shortest = case.shortest or case.length
        self.lengths = draw.integers(shortest, case.length + 1, rows) if case.shortest else np.full(rows, case.length)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = torch.from_numpy(self.tokens[index])
        labels = tokens.clone()
        labels[self.lengths[index] :] = -100
        return {"input_ids": tokens, "labels": labels, "attention_mask": (labels != -100).long()}


def main() -> None:
    """Train, and write the facts."""
    arm, name, steps, facts = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    case = next(case for case in (*CASES, *TINY) if case.name == name)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = ARMS[arm](case, steps, Path(folder), clock)
        trainer.train()
        if hasattr(trainer, "context"):  # Airsmith publishes the last checkpoint in the background
            trainer.context.uploader.wait()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    found = {"case": asdict(case), "losses": losses, "seconds": clock.seconds(), "peak_memory_bytes": peak}
    facts.write_text(json.dumps({**found, **_counted(trainer, case)}))


def _counted(trainer: Trainer, case: Case) -> dict[str, float]:
    """Tokens per step without padding, and FLOPs per token if the stage's trainer has counted them."""
    rows = trainer.train_dataset
    lengths = getattr(rows, "lengths", None)
    tokens = case.length if lengths is None else float(np.mean(lengths))
    training_flops = getattr(getattr(trainer, "context", None), "training_flops", None)
    counted = {} if training_flops is None else {"flops_per_token": training_flops.flops_per_token}
    return {"tokens_per_step": tokens * case.batch, **counted}


def base_of(case: Case) -> PreTrainedModel:
    """A model with random weights, created on the device."""
    torch.manual_seed(SEED)
    with torch.device(DEVICE):
        config = LlamaConfig(
            max_position_embeddings=case.length, dtype=torch.bfloat16, attn_implementation="sdpa", **MODELS[case.model]
        )
        return LlamaForCausalLM(config).to(torch.bfloat16)


def _lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")


def _arguments(case: Case, steps: int, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "per_device_train_batch_size": case.batch, "max_steps": steps, "seed": SEED,
        "learning_rate": 2e-4, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "bf16": True, "optim": "adamw_torch_fused", "gradient_checkpointing": case.checkpointing,
        "use_cpu": DEVICE == "cpu", "dataloader_pin_memory": DEVICE == "cuda",
    }  # fmt: skip


def _transformers(case: Case, steps: int, folder: Path, clock: Clock) -> Trainer:
    base = base_of(case)
    model = get_peft_model(base, _lora()) if case.method == "lora" else base.float()
    return Trainer(
        model,
        TrainingArguments(**_arguments(case, steps, folder)),
        train_dataset=Rows(case, steps * case.batch),
        callbacks=[clock],
    )


def _trl(case: Case, steps: int, folder: Path, clock: Clock) -> Trainer:
    from datasets import Dataset as Table
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    table = Table.from_dict({"input_ids": Rows(case, steps * case.batch).tokens.tolist()})
    config = SFTConfig(max_length=case.length, packing=False, **_arguments(case, steps, folder))
    return SFTTrainer(
        base_of(case),
        args=config,
        train_dataset=table,
        processing_class=tokenizer,
        peft_config=_lora() if case.method == "lora" else None,
        callbacks=[clock],
    )


def _airsmith(case: Case, steps: int, folder: Path, clock: Clock) -> Trainer:
    from benchmarks.gpu.ours import trainer_of

    return trainer_of(base_of(case), Rows(case, steps * case.batch), case, steps, folder, clock)


ARMS = {"airsmith": _airsmith, "transformers": _transformers, "trl": _trl}

if __name__ == "__main__":
    main()
