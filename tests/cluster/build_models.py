"""Build a tiny base model and two adapters, each also merged: `python build_models.py FOLDER`.

Runs in the stages' environment. Also writes the prompts of each adapter's smoke test, and the answers of all models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.tiny_llama import build_tiny_llama

ADAPTERS = {"tide": 1, "moon": 2}
QUESTIONS = ["Is the kettle on?", "Where did the cat go?", "When does the bus leave?", "Who is there?"]
NEW_TOKENS = 16
TRUNCATED = "\N{REPLACEMENT CHARACTER}"


def main(folder: Path) -> None:
    """Write everything under the folder."""
    build_tiny_llama(folder / "base", ["user", "assistant", *QUESTIONS], seed=3)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base_answers = [answer(load(folder / "base"), tokenizer, question) for question in QUESTIONS]
    answers_by_model = {"base": texts(tokenizer, base_answers)}
    for name, seed in ADAPTERS.items():
        save_adapter(folder / "base", folder / name, seed)
        tuned = PeftModel.from_pretrained(load(folder / "base"), folder / name).eval()
        answers = [answer(tuned, tokenizer, question) for question in QUESTIONS]
        answers_by_model[name] = texts(tokenizer, answers)
        prompts = [
            {
                "messages": [{"role": "user", "content": question}],
                "prompt": "",
                "prompt_token_ids": prompt_ids(tokenizer, question),
                "base_token_ids": base,
                "tuned_token_ids": ids,
            }
            for question, base, ids in zip(QUESTIONS, base_answers, answers, strict=True)
        ]
        (folder / f"{name}.json").write_text(json.dumps(prompts))
        tuned.merge_and_unload().save_pretrained(folder / f"merged-{name}")
        tokenizer.save_pretrained(folder / f"merged-{name}")
    (folder / "answers.json").write_text(json.dumps(answers_by_model))


def save_adapter(base: Path, folder: Path, seed: int) -> None:
    """Write an adapter with random weights, large enough to change every answer."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)


def texts(tokenizer: Any, answers: list[list[int]]) -> dict[str, str]:
    """The decoded answers, by question."""
    decoded = (tokenizer.decode(ids, skip_special_tokens=True) for ids in answers)
    # One library shows a truncated character and the other does not.
    return {question: text.rstrip(TRUNCATED) for question, text in zip(QUESTIONS, decoded, strict=True)}


def load(folder: Path) -> Any:
    """The model of a folder."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """The token ids of a conversation that starts with a question."""
    messages = [{"role": "user", "content": question}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, question: str) -> list[int]:
    """The token ids of the greedy answer."""
    ids = torch.tensor([prompt_ids(tokenizer, question)])
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    return list(map(int, generated[0, ids.shape[1] :]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
