"""vLLM's command line, as a pod runs it."""

from __future__ import annotations

import json

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import ADAPTER_RANKS
from airsmith.registry.names import base_model_name
from airsmith.serving.cluster.containers import ADAPTERS_FOLDER, MODEL_FOLDER, PORT
from airsmith.serving.cluster.served import ServedAdapter, ServedModel
from airsmith.serving.engines import engine_arguments
from airsmith.settings import Settings

DRAIN_SECONDS = 60
"""Longest time that a request in flight has to end once its server is told to stop."""

_ADAPTERS_AT_ONCE = 8
"""Most adapters that one batch may mix: each holds memory on the device."""


def server_arguments(model: ServedModel, settings: Settings, folder: str = MODEL_FOLDER) -> list[str]:
    """vLLM's command line; the recipe's own arguments come last and so win over the backend's.

    :param folder: where the model lies, unless it is streamed.
    :raises AirsmithError: `bad_recipe` where no server can stream from the settings' store.
    """
    name = base_model_name(model.endpoint) if model.adapters else model.endpoint
    plugin = model.server.plugin
    # What was compiled has weights and graphs; how the model ends an answer stands beside the weights that it is of.
    beside = ("--tokenizer", MODEL_FOLDER, "--generation-config", MODEL_FOLDER) if folder != MODEL_FOLDER else ()
    return [
        *(_streamed(model, settings) if model.is_streamed else ("--model", folder, *beside)),
        *("--served-model-name", name, "--host", "0.0.0.0", "--port", str(PORT), "--dtype", model.dtype),
        *(["--shutdown-timeout", str(DRAIN_SECONDS)] if plugin is None or plugin.drains else []),
        *computing_arguments(model),
    ]


def computing_arguments(model: ServedModel) -> list[str]:
    """The part of the command line that says how the engine computes, whatever the endpoint is called."""
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
        *engine_arguments(recipe.serve.engine_args),
    ]


def _streamed(model: ServedModel, settings: Settings) -> list[str]:
    """Where vLLM streams the model from.

    :raises AirsmithError: `bad_recipe` where the store is no object store.
    """
    if not settings.store.startswith("s3://"):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.load is 'stream', but nothing streams from {settings.store}.",
            "Set serve.load to 'copy', or use an s3:// store.",
        )
    return ["--model", f"{settings.store}/{model.files}", "--load-format", "runai_streamer"]


def _lora_arguments(adapters: tuple[ServedAdapter, ...]) -> list[str]:
    """What loads adapters beside their base."""
    highest = max(adapter.rank for adapter in adapters)
    room = next(rank for rank in ADAPTER_RANKS if rank >= highest)
    at_once = min(len(adapters), _ADAPTERS_AT_ONCE)
    return [
        *("--enable-lora", "--max-loras", str(at_once), "--max-cpu-loras", str(len(adapters))),
        *("--max-lora-rank", str(room), "--lora-modules"),
        *(json.dumps({"name": adapter.name, "path": f"{ADAPTERS_FOLDER}/{adapter.name}"}) for adapter in adapters),
    ]
