"""Tiny Llamas and LoRA adapters of them, with real weights and a real tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.tiny_llama import train_tokenizer

QUESTIONS = ["Is the kettle on?", "Where did the cat go", "yes", "The bus to the lake leaves at noon, does it not?"]
ANSWERS = ["No.", "Out.", "no", "It does."]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Train a ChatML tokenizer over bytes and a few merges."""
    return train_tokenizer(["user", "assistant", "system", *QUESTIONS, *ANSWERS])


def questions_and_answers(count: int) -> list[tuple[str, str]]:
    """Make distinct pairs of question and answer."""
    return [(f"{QUESTIONS[n % 4]} {n}", f"{ANSWERS[n % 4]} {n}") for n in range(count)]


def letters(*numbers: int) -> str:
    """Make a text of letters that are always one token each."""
    return "".join("QRUVWXYZ"[number] for number in numbers)


def answer_token_ids(text: str) -> list[int]:
    """Tokenize an answer and append the end token."""
    return [*tokenizer()(text)["input_ids"], tokenizer().eos_token_id]


def save_tiny_llama(folder: Path, *, seed: int = 7, dtype: torch.dtype = torch.float32, **config: Any) -> None:
    """Save a model whose weights are large enough for the logits of tokens to differ clearly."""
    shape = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    }  # fmt: skip
    ends = {"eos_token_id": tokenizer().eos_token_id, "pad_token_id": tokenizer().pad_token_id}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), bos_token_id=None, **ends, **{**shape, **config}))
    model.generation_config = GenerationConfig(**ends, do_sample=False)
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_lora_adapter(base: Path, folder: Path, **lora: Any) -> None:
    """Save an adapter with random weights, or an untrained one if `init_lora_weights=True`.

    :param lora: fields of peft's config.
    """
    config = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **lora}
    torch.manual_seed(11)
    model = get_peft_model(load_model(base), LoraConfig(task_type="CAUSAL_LM", **config))
    for parameter in model.parameters():
        if parameter.requires_grad and not config["init_lora_weights"]:
            # Training holds adapters in float32, whatever the base's dtype.
            parameter.data = parameter.data.float() + 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)


def load_model(folder: Path) -> Any:
    """Load a model for inference."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def load_with_adapter(base: Path, adapter: Path) -> Any:
    """Load peft's own model of base and adapter, which a merged model must equal."""
    return PeftModel.from_pretrained(load_model(base), adapter).eval()


@torch.inference_mode()
def logits(model: Any, text: str = "Where did the kettle go at noon, and is the cat on the bus?") -> torch.Tensor:
    """Compute the logits of a text."""
    return model(**tokenizer()(text, return_tensors="pt")).logits.float()


def relative_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Compute the relative L2 distance."""
    return float((one - other).norm() / one.norm())


@torch.inference_mode()
def greedy_tokens(model: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Generate token by token, without cache, batch or padding."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_new_tokens:
        tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        if tokens[-1] == tokenizer().eos_token_id:
            break
    return tokens[len(prompt) :]
