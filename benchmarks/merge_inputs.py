"""A Llama of a given size with random weights, and a LoRA adapter for all of its linear layers.

`python -m benchmarks.merge_inputs BASE ADAPTER BYTES` (prints the size of the base in bytes)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from airsmith_stages.merging.elements import from_floats
from airsmith_stages.weights.shards import index_of, plan_shards

HIDDEN, INTERMEDIATE, VOCABULARY, RANK = 2048, 5632, 32000, 16
_LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
LAYER_BYTES = 2 * sum(math.prod(shape) for shape in _LINEAR.values())


def write_base(folder: Path, size_bytes: int, shards: int = 5) -> int:
    """Write a bfloat16 model of about this size.

    :returns: its size in bytes.
    """
    layers = max(1, round((size_bytes - 4 * HIDDEN * VOCABULARY) / LAYER_BYTES))
    tensors = list(_tensors(layers))
    total = sum(2 * math.prod(shape) for _, shape in tensors)
    planned = plan_shards([(name, "BF16", shape) for name, shape in tensors], math.ceil(total / shards * 1.02))
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for shard in planned:
        with (folder / shard.file).open("wb") as file:
            file.write(shard.head)
            for tensor in shard.header.tensors:
                values = generator.standard_normal(math.prod(tensor.shape), np.float32) * 0.02
                file.write(from_floats(values, "BF16").data)
    index = index_of(planned)
    if index is not None:
        (folder / index[0]).write_bytes(index[1])
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "dtype": "bfloat16",
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 16, "vocab_size": VOCABULARY, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return total


def write_adapter(folder: Path, base: Path) -> None:
    """Write an adapter of rank 16 in float32, in the format that training writes."""
    layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    described = []
    for layer in range(layers):
        for module, (out, inner) in _LINEAR.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            described += [
                (f"{path}.lora_A.weight", "F32", (RANK, inner)),
                (f"{path}.lora_B.weight", "F32", (out, RANK)),
            ]
    folder.mkdir(parents=True)
    (shard,) = plan_shards(described, 1 << 40)
    generator = np.random.default_rng(1)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(shard.head)
        for tensor in shard.header.tensors:
            file.write((generator.standard_normal(math.prod(tensor.shape), np.float32) * 0.02).data)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "bias": "none",
        "target_modules": [name.rpartition(".")[2] for name in _LINEAR], "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        for module, shape in _LINEAR.items():
            yield f"model.layers.{layer}.{module}.weight", shape
        yield f"model.layers.{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)


if __name__ == "__main__":
    print(write_base(Path(sys.argv[1]), int(sys.argv[3])))
    write_adapter(Path(sys.argv[2]), Path(sys.argv[1]))
