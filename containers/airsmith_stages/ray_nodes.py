"""A stage on the nodes of a Ray cluster. Ray starts a launcher on each; torchrun's processes do the rest.

`python -m airsmith_stages.ray_nodes run --nodes N train --run URI` is the job's driver, on the head's node; `… stop`
ends the stage on one node, and then Ray, before its pod ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

LAUNCHER = "airsmith-stage"
POLL_SECONDS = 0.5
LAST_WORDS_SECONDS = 60
"""How long the leader may take to say what it saw of a node's loss."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names.

    :returns: the process's exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--nodes", type=int, required=True)
    run.add_argument("--threads", help="OMP_NUM_THREADS of the stage's processes; else the launcher counts cores")
    run.add_argument("stage", nargs=argparse.REMAINDER)
    commands.add_parser("stop")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if options.command == "stop":
        stop_launchers()
        return stop_ray()
    return run_on_nodes(options.stage, options.nodes, options.threads)


def run_on_nodes(stage: Sequence[str], nodes: int, threads: str | None = None) -> int:
    """Run a stage's command on every node of the cluster: here, and once on each of the others.

    :param stage: arguments of `airsmith-stage`.
    :param threads: OMP_NUM_THREADS of the stage's processes; Ray's own, of one, is not for them.
    :returns: what the leader, on this node, ended with.
    """
    import ray  # type: ignore[import-not-found]  # in the images of RayJobs alone

    ray.init(logging_level=logging.WARNING)
    where = {"PET_MASTER_ADDR": ray.util.get_node_ip_address(), "PET_MASTER_PORT": str(_free_port())}
    if threads is not None:
        where["OMP_NUM_THREADS"] = threads
    # Only the other nodes offer a CPU, one each. Nothing is tried twice: the training's next attempt begins anew.
    follow = ray.remote(num_cpus=1, max_retries=0)(_follow)
    followers = [follow.remote(stage, {**where, "PET_NODE_RANK": str(rank)}) for rank in range(1, nodes)]
    leader = _launch(stage, {**where, "PET_NODE_RANK": "0"})
    lost = _wait(leader, followers)
    if lost is None:
        return leader.returncode
    print(lost.to_json_line(), file=sys.stderr, flush=True)
    return 1


def stop_launchers() -> None:
    """Tell this container's launchers to stop, and wait until they have."""
    import psutil

    at_work = [process for process in psutil.process_iter(["cmdline"]) if _is_launcher(process.info["cmdline"] or ())]
    for process in at_work:
        process.terminate()
    while any(_is_at_work(process) for process in at_work):
        time.sleep(POLL_SECONDS)


def stop_ray() -> int:
    """End Ray in this container, and the container with it.

    KubeRay starts Ray by a shell that passes no signal on: the pod would hold its devices for all of its grace period.

    :returns: the command's exit code.
    """
    return subprocess.run(["ray", "stop", "--force"], check=False).returncode


def _wait(leader: subprocess.Popen[bytes], followers: list[Any]) -> AirsmithError | None:
    """Wait for the leader's end, which is the stage's, unless a node is lost first.

    :returns: what the leader could not tell.
    """
    import ray

    while leader.poll() is None and followers:
        ended, followers = ray.wait(followers, num_returns=1, timeout=POLL_SECONDS)
        for follower in ended:
            try:
                code = ray.get(follower)
            except ray.exceptions.RayError as failure:
                return _end(leader, failure)
            log.info("A node's launcher has ended with exit code %s.", code)
    leader.wait()
    return None


def _end(leader: subprocess.Popen[bytes], failure: Exception) -> AirsmithError | None:
    """Give the leader time to fail by itself. One that waits for an answer that never comes is ended."""
    try:
        leader.wait(LAST_WORDS_SECONDS)
        return None
    except subprocess.TimeoutExpired:
        leader.kill()
        leader.wait()
        return AirsmithError(
            ErrorKind.NODE_LOST,
            f"A node of the training was lost: {str(failure).splitlines()[0]}",
            "Run it again: it goes on from its newest checkpoint.",
        )


def _follow(stage: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the stage's command on another node to its end."""
    process = _launch(stage, environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()


def _launch(stage: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Ray gives each of its workers one thread, which a stage's processes are not to inherit.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen([LAUNCHER, *stage], env={**inherited, **environment})


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def _is_at_work(process: Any) -> bool:
    """Whether a process goes on. Where Ray has ended its parent already, nobody takes note of its end."""
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_launcher(command: Sequence[str]) -> bool:
    return any(Path(word).name == LAUNCHER for word in command[:2])


if __name__ == "__main__":
    exit_code = main()
    sys.stderr.flush()
    os._exit(exit_code)  # Without Ray's farewell: the stage's last line, which says what became of it, stays the last.
