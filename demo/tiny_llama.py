"""Build the demo's base model: a Llama with random weights, small enough to train on two cores.

It has all files of a model on the Hub: config, safetensors, tokenizer, chat template and generation config.
The same seed and corpus give the same files on the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY_SIZE = 600
HIDDEN_SIZE = 256
MAX_POSITIONS = 512
CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def build_tiny_llama(folder: Path, corpus: Path | Iterable[str], seed: int = 0) -> None:
    """Write the tiny base model into `folder`.

    :param corpus: training data of the tokenizer: texts, or a JSONL file of examples in chat format.
    :param seed: seed of the random weights.
    """
    disable_progress_bar()
    tokenizer = train_tokenizer(chat_texts(corpus) if isinstance(corpus, Path) else corpus)
    model = random_model(tokenizer, seed)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def chat_texts(examples: Path) -> Iterator[str]:
    """The roles and contents of all messages in a JSONL file of examples in chat format."""
    with examples.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                yield message["role"]
                yield message["content"]


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML's special tokens.

    It adds no beginning-of-sequence token, because a ChatML conversation starts with its first turn.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )


def random_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with 4 layers and random weights from `seed`."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=HIDDEN_SIZE**-0.5,
        dtype=torch.float32,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    # LoRA does not train the embeddings; random ones work only at a scale that keeps tokens distinguishable.
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model
