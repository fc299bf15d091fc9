"""A sharded checkpoint with random weights, saved by torch from several ranks in both of its formats.

`python -m benchmarks.consolidate_inputs BYTES DCP_FOLDER HUGGING_FACE_FOLDER`
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

RANKS = 4
_HIDDEN, _INTERMEDIATE, _VOCABULARY = 2048, 5632, 32000
_LAYER = {
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_HIDDEN, _HIDDEN),
    "self_attn.v_proj": (_HIDDEN, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_INTERMEDIATE, _HIDDEN),
    "mlp.up_proj": (_INTERMEDIATE, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _INTERMEDIATE),
    "input_layernorm": (_HIDDEN,),
    "post_attention_layernorm": (_HIDDEN,),
}


def shapes(size_bytes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a bfloat16 Llama of about this size."""
    ends = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
        "lm_head.weight": (_VOCABULARY, _HIDDEN),
    }
    layer_bytes = 2 * sum(math.prod(shape) for shape in _LAYER.values())
    layers = max(1, round((size_bytes - 2 * sum(math.prod(shape) for shape in ends.values())) / layer_bytes))
    inner = {f"model.layers.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in _LAYER.items()}
    return {**inner, **ends}


def write_checkpoints(size_bytes: int, dcp: Path, hugging_face: Path) -> None:
    """Save the same tensors in both formats, sharded by rows over the ranks as in FSDP."""
    import torch

    torch.multiprocessing.start_processes(
        _write_rank, (shapes(size_bytes), dcp, hugging_face), nprocs=RANKS, start_method="fork"
    )


def _write_rank(rank: int, tensors: dict[str, tuple[int, ...]], dcp: Path, hugging_face: Path) -> None:
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    store = dist.FileStore(f"{dcp}.rendezvous", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    torch.manual_seed(rank)
    state = {
        name: DTensor.from_local(torch.randn(rows // RANKS, *rest, dtype=torch.bfloat16), mesh, [Shard(0)])
        for name, (rows, *rest) in tensors.items()
    }
    checkpoint.save(state, checkpoint_id=dcp)
    checkpoint.save(state, storage_writer=HuggingFaceStorageWriter(str(hugging_face), save_distributed=True))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    write_checkpoints(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
