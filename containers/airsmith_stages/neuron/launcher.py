"""Launches a training on Neuron, and compiles its graphs with the same launch, wrapped by AWS's tool.

Not run on a device.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.launch import LaunchResult, exit_code_error, is_leader_node, launch_in_subprocess
from airsmith_stages.memory import out_of_memory_kills
from airsmith_stages.neuron.cache import (
    count_graphs,
    files_to_keep,
    unfinished_graphs,
    unpack_cache,
)
from airsmith_stages.neuron.environment import training_environment
from airsmith_stages.neuron.graph_log import GraphLog, graph_name, read_graph_log
from airsmith_stages.neuron.partial_cache import delete_partial_cache, restore_partial_cache, save_partial_cache
from airsmith_stages.stage_context import StageContext

log = logging.getLogger("airsmith")

TOOL = "neuron_parallel_compile"
_TOOL_MODULE = "optimum.neuron.utils.neuron_parallel_compile"
_MAX_NAMES = 5


def launch(context: StageContext) -> None:
    """Run the processes of `compile` or `train` on this node and wait until they exit.

    :raises AirsmithError: if a process or the compiler fails.
    """
    cache = context.scratch / "cache"
    cache.mkdir()
    if context.contract.name == "compile":
        _compile(context, cache)
    else:
        _train(context, cache)


def check_compiled(result: LaunchResult, cache: Path, *, memory_ran_out: bool) -> None:
    """Check that a cache is complete, independent of the tool's exit code.

    :param memory_ran_out: whether the kernel has killed a process of this container because memory ran out.
    :raises AirsmithError: `out_of_memory`, `verification_failed` with the graphs' names, or the processes' error.
    """
    graph_log = read_graph_log(result.log)
    failed = sorted(graph_log.failed | {graph_name(graph) for graph in unfinished_graphs(cache)})
    reports_failure = bool(graph_log.failed or graph_log.failed_count)
    if (reports_failure or failed or result.exit_code != 0) and (graph_log.was_killed or memory_ran_out):
        raise _out_of_memory(failed)
    if result.error is not None:
        raise result.error
    if result.exit_code != 0 and not reports_failure:
        raise exit_code_error("compile", result.exit_code)
    if failed or reports_failure:
        raise _failed(failed, graph_log)
    if count_graphs(cache) == 0:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{TOOL} exited with code 0 but compiled no graph.",
            "See its log: the training's processes must run steps, and NEURON_CC_FLAGS must not contain --no-cache.",
        )


def _compile(context: StageContext, cache: Path) -> None:
    started_at = time.monotonic()
    reused = restore_partial_cache(context, cache)
    if reused:
        log.info("Reusing %d graphs that an earlier attempt has compiled", reused)
    kills = out_of_memory_kills()
    try:
        result = launch_in_subprocess(
            context, training_environment(context.spec, cache), _tool(context.scratch), graceful_stop=False
        )
        check_compiled(result, cache, memory_ran_out=out_of_memory_kills() > kills)
        if is_leader_node():
            _publish(context, cache, reused, round(time.monotonic() - started_at, 1))
    except BaseException:
        if is_leader_node():
            save_partial_cache(context, cache, reused)
        raise


def _train(context: StageContext, cache: Path) -> None:
    compiled = unpack_cache(context.input("compile"), cache) if "compile" in context.pointers else 0
    log.info("Starting with %d compiled graphs", compiled)
    result = launch_in_subprocess(context, training_environment(context.spec, cache), graceful_stop=True)
    if result.exit_code != 0:
        raise result.error or exit_code_error(context.contract.name, result.exit_code)
    added = count_graphs(cache) - compiled
    if added and compiled:
        log.warning("%d graphs were compiled during the training: the stage compile did not extract them", added)


def _publish(context: StageContext, cache: Path, reused: int, seconds: float) -> None:
    graphs = count_graphs(cache)
    with context.write_output() as output:
        for name, path in files_to_keep(cache).items():
            output.add_file(name, path)
        output.publish(metrics={"graphs": graphs, "reused": reused, "seconds": seconds})
    log.info("Compiled %d graphs", graphs - reused)
    delete_partial_cache(context)


def _tool(scratch: Path) -> list[str]:
    """The tool's command: the program in AWS's images, or optimum-neuron's module that wraps the same code.

    Its working folder is set because the default, under /tmp, is not writable in a pod and shared by all processes.
    """
    program = shutil.which(TOOL)
    if program is None and find_spec("torch_neuronx") is None:
        raise AirsmithError(
            ErrorKind.DEVICE_ERROR,
            f"{TOOL} is not installed in this stage's environment.",
            "Use an image based on the Neuron training image of AWS or Hugging Face.",
        )
    command = [program] if program is not None else [sys.executable, "-m", _TOOL_MODULE]
    return [*command, "--parallel_compile_workdir", str(scratch / "parallel_compile")]


def _failed(names: list[str], graph_log: GraphLog) -> AirsmithError:
    count = max(len(names), graph_log.failed_count)
    return AirsmithError(
        ErrorKind.VERIFICATION_FAILED,
        f"The compiler failed on {count} graph{'s' if count > 1 else ''}: {_listed(names)}."
        + (f" Its message: {graph_log.cause.rstrip('.')}." if graph_log.cause else ""),
        "The compiled graphs are saved: clear compile to retry the others. If it fails again, change "
        "dataset.max_length, training.max_per_device_train_batch_size or backend.instance_type.",
    )


def _out_of_memory(names: list[str]) -> AirsmithError:
    return AirsmithError(
        ErrorKind.OUT_OF_MEMORY,
        f"The host's memory ran out during the compilation of {_listed(names)}.",
        "The compiled graphs are saved: clear compile to continue. Raise backend.resources.memory, use a larger "
        "backend.instance_type, or lower training.max_per_device_train_batch_size or dataset.max_length.",
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (", ".join(names[:_MAX_NAMES]) or "graphs that the tool does not name") + more
