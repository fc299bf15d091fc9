"""The demo's base model is complete and reproducible, and its chat template masks everything but the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from demo.ticket_triage import DATA
from demo.tiny_llama import VOCABULARY_SIZE, build_tiny_llama

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "My kettle is cold."},
    {"role": "assistant", "content": "Oh."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_tiny_llama(folder, DATA / "train.jsonl")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def conversations() -> list[list[dict[str, str]]]:
    return [
        json.loads(line)["messages"] for name in ("train", "validation") for line in (DATA / f"{name}.jsonl").open()
    ]


def test_it_has_all_files_of_a_model_on_the_hub(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    build_tiny_llama(tmp_path / "same", DATA / "train.jsonl")
    build_tiny_llama(tmp_path / "other", DATA / "train.jsonl", seed=1)
    for file in folder.iterdir():
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes(), file.name
    weights = "model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (folder / weights).read_bytes()


def test_every_token_has_an_embedding(tokenizer: Any, model: Any) -> None:
    assert len(tokenizer) == VOCABULARY_SIZE == model.get_input_embeddings().num_embeddings
    assert model.get_output_embeddings().weight.shape[0] == VOCABULARY_SIZE


def test_the_template_is_chatml(tokenizer: Any) -> None:
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nMy kettle is cold.<|im_end|>\n"
    answer = "<|im_start|>assistant\nOh.<|im_end|>\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == turns + answer
    prompt = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    assert prompt == turns + "<|im_start|>assistant\n"


def test_the_assistant_mask_covers_the_answer_and_its_end_of_turn(tokenizer: Any) -> None:
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    masked = [token for token, kept in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if kept]
    assert tokenizer.decode(masked) == "Oh.<|im_end|>"


def test_the_prompt_is_a_prefix_of_the_conversation(tokenizer: Any, conversations: list[list[dict[str, str]]]) -> None:
    for conversation in conversations[:50]:
        whole = tokenizer.apply_chat_template(conversation)["input_ids"]
        prompt = tokenizer.apply_chat_template(conversation[:-1], add_generation_prompt=True)["input_ids"]
        assert whole[: len(prompt)] == prompt


def test_the_tokenizer_adds_no_special_tokens_to_the_template(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.bos_token is None
    assert tokenizer(text)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(text)["input_ids"][0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_generation_stops_at_the_end_of_the_turn(folder: Path, tokenizer: Any) -> None:
    generation = GenerationConfig.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens([generation.eos_token_id, generation.pad_token_id]) == [
        "<|im_end|>",
        "<|endoftext|>",
    ]


def test_decoding_restores_any_text(tokenizer: Any) -> None:
    text = ' Grüße 🦊\n\t{"team": 1}  E42 '
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_conversations_are_short(tokenizer: Any, conversations: list[list[dict[str, str]]]) -> None:
    lengths = [len(tokenizer.apply_chat_template(conversation)["input_ids"]) for conversation in conversations]
    assert max(lengths) <= 128
    assert sum(lengths) / len(lengths) <= 80


def test_the_base_model_answers_nothing_correctly(
    tokenizer: Any, model: Any, conversations: list[list[dict[str, str]]]
) -> None:
    samples = conversations[-20:]
    prompts = tokenizer.apply_chat_template(
        [conversation[:-1] for conversation in samples],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )
    with torch.inference_mode():
        generated = model.generate(**prompts, max_new_tokens=16)
    answers = tokenizer.batch_decode(generated[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    assert not any(answer == conversation[-1]["content"] for answer, conversation in zip(answers, samples, strict=True))
