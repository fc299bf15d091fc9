"""vLLM's command line in a pod."""

from __future__ import annotations

import json

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import ADAPTER_RANKS
from airsmith.registry.names import base_model_name
from airsmith.serving.cluster.containers import ADAPTERS_FOLDER, MODEL_FOLDER, PORT
from airsmith.serving.cluster.served_model import ServedAdapter, ServedModel
from airsmith.serving.engines import vllm_arguments
from airsmith.settings import Settings

DRAIN_SECONDS = 60
"""Time that vLLM waits for requests in flight after SIGTERM."""

_MAX_ADAPTERS_PER_BATCH = 8
"""Each adapter of a batch takes device memory."""


def server_arguments(model: ServedModel, settings: Settings, folder: str = MODEL_FOLDER) -> list[str]:
    """vLLM's command line; the recipe's arguments come last and override the backend's.

    :param folder: folder of the model, unless it is streamed.
    :raises AirsmithError: `bad_recipe` if the model is streamed and the store does not support it.
    """
    name = base_model_name(model.endpoint) if model.adapters else model.endpoint
    plugin = model.server.plugin
    # A compiled model contains weights and graphs only; tokenizer and stop tokens come from the source model.
    source = ("--tokenizer", MODEL_FOLDER, "--generation-config", MODEL_FOLDER) if folder != MODEL_FOLDER else ()
    return [
        *(_streamed(model, settings) if model.is_streamed else ("--model", folder, *source)),
        *("--served-model-name", name, "--host", "0.0.0.0", "--port", str(PORT), "--dtype", model.dtype),
        *(["--shutdown-timeout", str(DRAIN_SECONDS)] if plugin is None or plugin.drains else []),
        *compute_arguments(model),
    ]


def compute_arguments(model: ServedModel) -> list[str]:
    """The arguments that affect computation; they do not depend on the endpoint's name."""
    recipe = model.recipe
    server = model.server
    template = recipe.dataset.chat_template
    parts = server.tensor_parallel_size
    return [
        *server.arguments,
        *(["--tensor-parallel-size", str(parts)] if parts is not None else []),
        *(["--trust-remote-code"] if recipe.model.trust_remote_code else []),
        *(_lora_arguments(model.adapters) if model.adapters else []),
        *(["--chat-template", template] if model.adapters and template else []),
        *vllm_arguments(recipe.serve.engine_args),
    ]


def _streamed(model: ServedModel, settings: Settings) -> list[str]:
    """The arguments that stream the model from the store.

    :raises AirsmithError: `bad_recipe` if the store is not an object store.
    """
    if not settings.store.startswith("s3://"):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.load is 'stream', which the store {settings.store} does not support.",
            "Set serve.load to 'copy', or use an s3:// store.",
        )
    return ["--model", f"{settings.store}/{model.files}", "--load-format", "runai_streamer"]


def _lora_arguments(adapters: tuple[ServedAdapter, ...]) -> list[str]:
    """The arguments that load adapters."""
    highest = max(adapter.rank for adapter in adapters)
    max_rank = next(rank for rank in ADAPTER_RANKS if rank >= highest)
    per_batch = min(len(adapters), _MAX_ADAPTERS_PER_BATCH)
    return [
        *("--enable-lora", "--max-loras", str(per_batch), "--max-cpu-loras", str(len(adapters))),
        *("--max-lora-rank", str(max_rank), "--lora-modules"),
        *(json.dumps({"name": adapter.name, "path": f"{ADAPTERS_FOLDER}/{adapter.name}"}) for adapter in adapters),
    ]
