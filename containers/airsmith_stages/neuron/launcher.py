"""How a training on Neuron is launched, and how its graphs are compiled: by the very same launch, inside AWS's tool.

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
_MOST_NAMES = 5


def launch(context: StageContext) -> None:
    """Run the processes of `compile` or `train` on this node to their end.

    :raises AirsmithError: what they, or the compiler, say.
    """
    cache = context.scratch / "cache"
    cache.mkdir()
    if context.contract.name == "compile":
        _compile(context, cache)
    else:
        _train(context, cache)


def check_compiled(ended: LaunchResult, cache: Path, *, memory_ran_out: bool) -> None:
    """Refuse a cache that is not whole, whatever the tool's exit code says.

    :param memory_ran_out: whether the kernel killed a process of this container for its memory meanwhile.
    :raises AirsmithError: `out_of_memory`, `verification_failed` naming the graphs, or what the processes said.
    """
    told = read_graph_log(ended.log)
    failed = sorted(told.failed | {graph_name(graph) for graph in unfinished_graphs(cache)})
    says_failed = bool(told.failed or told.failed_count)
    if (says_failed or failed or ended.code != 0) and (told.was_killed or memory_ran_out):
        raise _out_of_memory(failed)
    if ended.error is not None:
        raise ended.error
    if ended.code != 0 and not says_failed:
        raise exit_code_error("compile", ended.code)
    if failed or says_failed:
        raise _failed(failed, told)
    if count_graphs(cache) == 0:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{TOOL} ended well but compiled no graph.",
            "See its log: the training's processes must run some steps, and NEURON_CC_FLAGS must not have --no-cache.",
        )


def _compile(context: StageContext, cache: Path) -> None:
    begun = time.monotonic()
    reused = restore_partial_cache(context, cache)
    if reused:
        log.info("Going on with %d graphs that an earlier try has compiled", reused)
    kills = out_of_memory_kills()
    try:
        ended = launch_in_subprocess(
            context, training_environment(context.spec, cache), _tool(context.scratch), may_finish=False
        )
        check_compiled(ended, cache, memory_ran_out=out_of_memory_kills() > kills)
        if is_leader_node():
            _publish(context, cache, reused, round(time.monotonic() - begun, 1))
    except BaseException:
        if is_leader_node():
            save_partial_cache(context, cache, reused)
        raise


def _train(context: StageContext, cache: Path) -> None:
    compiled = unpack_cache(context.input("compile"), cache) if "compile" in context.pointers else 0
    log.info("Beginning with %d compiled graphs", compiled)
    ended = launch_in_subprocess(context, training_environment(context.spec, cache), may_finish=True)
    if ended.code != 0:
        raise ended.error or exit_code_error(context.contract.name, ended.code)
    anew = count_graphs(cache) - compiled
    if anew and compiled:
        log.warning("%d graphs had to be compiled during the training: the stage compile has not seen them", anew)


def _publish(context: StageContext, cache: Path, reused: int, seconds: float) -> None:
    graphs = count_graphs(cache)
    with context.write_output() as output:
        for name, path in files_to_keep(cache).items():
            output.add_file(name, path)
        output.publish(metrics={"graphs": graphs, "reused": reused, "seconds": seconds})
    log.info("Compiled %d graphs", graphs - reused)
    delete_partial_cache(context)


def _tool(scratch: Path) -> list[str]:
    """The tool's command: the program of AWS's images, or optimum-neuron's module that stands around the same code.

    By default it keeps its files under /tmp, which a pod cannot write to, and which two of them would share.
    """
    program = shutil.which(TOOL)
    if program is None and find_spec("torch_neuronx") is None:
        raise AirsmithError(
            ErrorKind.DEVICE_ERROR,
            f"There is no {TOOL} where this stage runs.",
            "Use an image that is built on AWS's or Hugging Face's training image for Neuron.",
        )
    command = [program] if program is not None else [sys.executable, "-m", _TOOL_MODULE]
    return [*command, "--parallel_compile_workdir", str(scratch / "parallel_compile")]


def _failed(names: list[str], told: GraphLog) -> AirsmithError:
    count = max(len(names), told.failed_count)
    return AirsmithError(
        ErrorKind.VERIFICATION_FAILED,
        f"The compiler failed on {count} graph{'s' if count > 1 else ''}: {_listed(names)}."
        + (f" It says: {told.cause.rstrip('.')}." if told.cause else ""),
        "What was compiled is kept: clear compile to try the rest again. Where it fails again, another "
        "dataset.max_length, training.max_per_device_train_batch_size or backend.instance_type may compile.",
    )


def _out_of_memory(names: list[str]) -> AirsmithError:
    return AirsmithError(
        ErrorKind.OUT_OF_MEMORY,
        f"The host's memory ran out while graphs were compiled: {_listed(names)}.",
        "What was compiled is kept: clear compile to go on. Give the pod more memory by backend.resources.memory, use "
        "a larger backend.instance_type, or lower training.max_per_device_train_batch_size or dataset.max_length.",
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "the tool names none") + more
