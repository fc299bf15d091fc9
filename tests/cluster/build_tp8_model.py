"""Build the demo's model with eight heads, so that eight cores can share its layers: `build_tp8_model.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from demo.ticket_triage import DATA
from demo.tiny_llama import chat_texts, random_model, train_tokenizer

HEADS, KEY_VALUE_HEADS = 8, 4
"""Twice the demo's heads of half their size: the same weights. A key's and a value's are on two of eight cores each."""


def main() -> None:
    """Write the model into the folder that the command line names."""
    folder = Path(sys.argv[1])
    tokenizer = train_tokenizer(chat_texts(DATA / "train.jsonl"))
    model = random_model(tokenizer, seed=0)
    model.config.update(
        {
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "head_dim": model.config.hidden_size // HEADS,
        }
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
