"""The shards of an adapter as four processes of optimum-neuron save them, in plain files and in xser files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.support.torch_xla_files import save_xser

RANKS = 4
MODULE = "base_model.model.model.layers.0"
SHAPES = {
    "self_attn.qkv_proj.lora_A.weight": (2, 8),
    "self_attn.qkv_proj.lora_B.weight_q": (4, 2),
    "self_attn.qkv_proj.lora_B.weight_k": (2, 2),
    "self_attn.qkv_proj.lora_B.weight_v": (2, 2),
    "self_attn.o_proj.lora_A.weight": (2, 4),
    "self_attn.o_proj.lora_B.weight": (8, 2),
    "mlp.gate_up_proj.lora_A.weight": (2, 8),
    "mlp.gate_up_proj.lora_B.weight": (6, 2),
}
"""The shapes of each rank's tensors: 8 query heads and 2 key-value heads, of two rows each."""
SHARDED_DIMENSIONS = {
    "lora_B.weight_q": 0,
    "lora_B.weight_k": 0,
    "lora_B.weight_v": 0,
    "o_proj.lora_A.weight": 1,
    "gate_up_proj.lora_B.weight": 0,
}


def save_neuron_shards(folder: Path) -> None:
    """Save the shards; the last two ranks use xser, with each tensor in a separate file."""
    (folder / "model").mkdir(parents=True)
    (folder / "done").write_text("1")
    (folder / "mp_metadata_pp_rank_0.json").write_text(json.dumps(_metadata()))
    for rank in range(RANKS):
        state = {f"{MODULE}.{name}": torch.randn(shape) for name, shape in SHAPES.items()}
        path = folder / f"model/dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"
        if rank < RANKS // 2:
            torch.save(state, path)
        else:
            save_xser(state, path)


def _metadata() -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name in SHAPES:
        dimension = next((dimension for end, dimension in SHARDED_DIMENSIONS.items() if name.endswith(end)), None)
        sharding = {"partition_dim": dimension, "partition_stride": 1, "num_partitions": RANKS}
        is_sharded = dimension is not None
        full_name = f"{MODULE}.{name}".replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
        parameters[full_name] = {"tensor_model_parallel": is_sharded, **(sharding if is_sharded else {})}
    fused = {
        "fused_linear_name": "gate_up_proj", "linear_names": ["gate_proj", "up_proj"], "bias": False, "fuse_axis": 0,
        "original_dims": [12, 12], "tp_size": RANKS, "peft_type": "lora",
    }  # fmt: skip
    heads = {
        "gqa_qkv_projection_name": "qkv_proj", "query_projection_name": "q_proj", "key_projection_name": "k_proj",
        "value_projection_name": "v_proj", "output_projection_name": "o_proj", "num_attention_heads": 8,
        "num_key_value_heads": 2, "kv_size_multiplier": 2, "q_output_size_per_partition": 4,
        "kv_output_size_per_partition": 2, "fuse_qkv": False, "bias": False, "tp_size": RANKS, "peft_type": "lora",
    }  # fmt: skip
    specs = {"self_attn": ("GQAQKVColumnParallelLinearSpec", heads), "mlp": ("FusedLinearsSpec", fused)}
    return {
        "parameters": parameters,
        "model_weight_transformation_specs": [
            {"module_fully_qualified_name": f"{MODULE}.{name}", "specs": [spec]} for name, spec in specs.items()
        ],
    }
