"""Conversations from the source text of the installed packages, and a tokenizer with a realistic vocabulary size.

Docstrings provide prose, and the lines between them code, so words, numbers and indentation are as frequent as in real
conversations. The same packages and seed give the same files.

`python -m benchmarks.tokenize_corpus FOLDER CONVERSATIONS`
"""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo.tiny_llama import CHAT_TEMPLATE, END_OF_TEXT, TURN_END, TURN_START

VOCABULARY_SIZE = 32_000
PIECES_BYTES = 60_000_000
TRAINED_ON_BYTES = 20_000_000
_DOCSTRING = re.compile(r'"""(.{80,}?)"""', re.DOTALL)


def write_corpus(folder: Path, conversations: int, seed: int = 0) -> None:
    """Write `dataset/train.jsonl`, `dataset/validation.jsonl` (1 % of the size) and the tokenizer in `model/`."""
    pieces = list(_pieces())
    rng = np.random.default_rng(seed)
    for split, count in (("train", conversations), ("validation", conversations // 100)):
        file = folder / "dataset" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as lines:
            for number in range(count):
                messages = _conversation(pieces, rng, f"{split} {number}")
                lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    _trained_tokenizer(pieces).save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')


def _conversation(pieces: list[str], rng: np.random.Generator, number: str) -> list[dict[str, str]]:
    """One to four exchanges with lognormal lengths, as in chat data."""
    messages = [{"role": "system", "content": f"You know these packages well. Ticket {number}."}]
    for _ in range(1 + min(3, int(rng.geometric(0.6)) - 1)):
        question, answer = (int(size) for size in np.exp(rng.normal((4.6, 5.6), (0.8, 1.0))))
        messages.append({"role": "user", "content": _text(pieces, rng, question)})
        messages.append({"role": "assistant", "content": _text(pieces, rng, answer)})
    return messages


def _text(pieces: list[str], rng: np.random.Generator, characters: int) -> str:
    text = ""
    while len(text) < max(characters, 8):
        text = f"{text}\n\n{pieces[int(rng.integers(len(pieces)))]}".strip()
    return text[:characters].strip() or "yes"


def _trained_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that splits texts as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(pieces, TRAINED_ON_BYTES), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )


def _pieces() -> Iterator[str]:
    """Paragraphs of prose and of code."""
    files = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    texts = (text for file in files for text in _paragraphs(file.read_text(encoding="utf-8", errors="ignore")))
    yield from _first(texts, PIECES_BYTES)


def _paragraphs(source: str) -> Iterator[str]:
    parts = _DOCSTRING.split(source)
    for number, part in enumerate(parts):
        if number % 2:
            paragraphs = re.split(r"\n\s*\n", part)
            yield from (" ".join(paragraph.split()) for paragraph in paragraphs if len(paragraph) > 40)
        else:
            yield part.strip()[:400]


def _first(texts: Iterator[str] | list[str], max_bytes: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        if taken >= max_bytes:
            return
        taken += len(text)
        if text:
            yield text


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]), int(sys.argv[2]))
