"""Build the demo's model with eight heads, for a tensor parallel size of 8: `build_tp8_model.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from demo.ticket_triage import DATA
from demo.tiny_llama import chat_texts, random_model, train_tokenizer

HEADS, KEY_VALUE_HEADS = 8, 4
"""Twice as many heads as the demo's, of half the size: the same weights. Two of eight cores share a key-value head."""


def main() -> None:
    """Write the model to the folder given on the command line."""
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
