"""Other implementations of packed rows: `python -m benchmarks.tokenize_peers PEER CORPUS MAX_LENGTH FACTS_FILE`.

Both peers apply the tokenizer's chat template, keep the assistant mask, and pack best-fit decreasing, with one process
per core. Their output is in the cache of `datasets`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer, pack_dataset

PROCESSES = len(os.sched_getaffinity(0))


def main() -> None:
    """Tokenize and pack a corpus, and write facts about its training split as JSON."""
    peer, corpus, max_length, facts = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    data = load_dataset(str(corpus / "dataset"))
    tokenizer = AutoTokenizer.from_pretrained(corpus / "model")
    prepare = {"trl": _with_trl, "datasets": _with_datasets}[peer]
    facts.write_text(json.dumps(_facts(prepare(data, tokenizer, max_length), max_length)))


def _with_trl(data: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The trainer preprocesses its data in its constructor; the model is as small as possible."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    arguments = SFTConfig(
        packing=True,
        packing_strategy="bfd",
        eval_packing=False,
        assistant_only_loss=True,
        max_length=max_length,
        dataset_num_proc=PROCESSES,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = SFTTrainer(
        LlamaForCausalLM(config),
        arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    return trainer.train_dataset


def _with_datasets(data: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The usual code: a batched map, then TRL's packing."""

    def tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer.apply_chat_template(
            batch["messages"], return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
        )
        return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}

    rows = data.map(tokenized, batched=True, num_proc=PROCESSES, remove_columns=["messages"])
    return pack_dataset(rows["train"], max_length, "bfd", {"num_proc": PROCESSES})


def _facts(packed: Dataset, max_length: int) -> dict[str, int | float]:
    rows = packed.with_format("arrow")
    tokens = sum(len(batch["input_ids"].combine_chunks().flatten()) for batch in rows.iter(1000))
    return {"tokens": tokens, "rows": len(packed), "fill": tokens / (len(packed) * max_length)}


if __name__ == "__main__":
    main()
