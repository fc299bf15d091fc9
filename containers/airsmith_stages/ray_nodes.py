"""Runs a stage on the nodes of a Ray cluster: Ray starts a launcher on each node, and torchrun connects the processes.

`python -m airsmith_stages.ray_nodes run --nodes N train --run URI` is the job's driver on the head node; `… stop` stops
the stage on one node and then Ray, before its pod exits.
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
LEADER_EXIT_SECONDS = 60
"""Time that the leader has to exit with its own error after a node is lost."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named on the command line.

    :returns: the process's exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--nodes", type=int, required=True)
    run.add_argument(
        "--threads", help="OMP_NUM_THREADS of the stage's processes; by default the launcher counts the cores"
    )
    run.add_argument("stage", nargs=argparse.REMAINDER)
    commands.add_parser("stop")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if options.command == "stop":
        stop_launchers()
        return stop_ray()
    return run_on_nodes(options.stage, options.nodes, options.threads)


def run_on_nodes(stage: Sequence[str], nodes: int, threads: str | None = None) -> int:
    """Run a stage's command on every node of the cluster: on this node, the leader, and on each follower.

    :param stage: arguments of `airsmith-stage`.
    :param threads: OMP_NUM_THREADS of the stage's processes, instead of Ray's default of 1.
    :returns: the leader's exit code.
    """
    import ray  # type: ignore[import-not-found]  # installed only in the images of RayJobs

    ray.init(logging_level=logging.WARNING)
    environment = {"PET_MASTER_ADDR": ray.util.get_node_ip_address(), "PET_MASTER_PORT": str(_free_port())}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    # Only the followers have a CPU resource, one each. No retries: the task's next attempt starts a new job.
    follow = ray.remote(num_cpus=1, max_retries=0)(_follow)
    followers = [follow.remote(stage, {**environment, "PET_NODE_RANK": str(rank)}) for rank in range(1, nodes)]
    leader = _launch(stage, {**environment, "PET_NODE_RANK": "0"})
    lost = _wait(leader, followers)
    if lost is None:
        return leader.returncode
    print(lost.to_json_line(), file=sys.stderr, flush=True)
    return 1


def stop_launchers() -> None:
    """Send SIGTERM to this container's launchers, and wait until they exit."""
    import psutil

    launchers = [each for each in psutil.process_iter(["cmdline"]) if _is_launcher(each.info["cmdline"] or ())]
    for process in launchers:
        process.terminate()
    while any(_is_running(process) for process in launchers):
        time.sleep(POLL_SECONDS)


def stop_ray() -> int:
    """Stop Ray, and with it this container.

    KubeRay starts Ray from a shell that forwards no signals: without this, the pod would hold its devices for its whole
    grace period.

    :returns: the exit code of `ray stop`.
    """
    return subprocess.run(["ray", "stop", "--force"], check=False).returncode


def _wait(leader: subprocess.Popen[bytes], followers: list[Any]) -> AirsmithError | None:
    """Wait until the leader exits or a node is lost.

    :returns: the error of a lost node if the leader did not report one itself.
    """
    import ray

    while leader.poll() is None and followers:
        ended, followers = ray.wait(followers, num_returns=1, timeout=POLL_SECONDS)
        for follower in ended:
            try:
                code = ray.get(follower)
            except ray.exceptions.RayError as failure:
                return _stop_leader(leader, failure)
            log.info("The launcher of a follower node exited with code %s.", code)
    leader.wait()
    return None


def _stop_leader(leader: subprocess.Popen[bytes], failure: Exception) -> AirsmithError | None:
    """Give the leader time to exit with its own error, then kill it: it may wait for the lost node forever."""
    try:
        leader.wait(LEADER_EXIT_SECONDS)
        return None
    except subprocess.TimeoutExpired:
        leader.kill()
        leader.wait()
        return AirsmithError(
            ErrorKind.NODE_LOST,
            f"A node of the training was lost: {str(failure).splitlines()[0]}",
            "Run it again: it resumes from its newest checkpoint.",
        )


def _follow(stage: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the stage's command on a follower node and wait until it exits."""
    process = _launch(stage, environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()


def _launch(stage: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Ray sets OMP_NUM_THREADS=1 for its workers, which the stage's processes must not inherit.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen([LAUNCHER, *stage], env={**inherited, **environment})


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def _is_running(process: Any) -> bool:
    """Whether a process has not exited. If Ray has already killed its parent, it remains a zombie."""
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
    os._exit(exit_code)  # Skips Ray's exit message: the last line of the log must be that of the stage, its result.
